"""A closed mesh with fewer, evenly spread vertices, still closed and of the same topology.

Shortest edges collapse first, under the link condition (Dey et al. 1999), which keeps a manifold a
manifold with the same tunnels; then the vertices even out along the surface. Quadric decimation is
quicker but pinches thin bone into non-manifold edges.
"""

import heapq

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from shapefit.mesh import boundary_edges, closest_on, surface_tree
from shapefit.pairs import vertex_normals
from shapefit.registration import laplacian, unfold


def remesh(
    vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"], count: int, rounds: int = 10
) -> tuple[Float[ndarray, "V2 3"], Int[ndarray, "F2 3"]]:
    """A closed manifold mesh of about `count` near-uniform vertices on the same surface, in mm.

    A mesh that has no more than `count` vertices keeps them all. Raises ValueError if it is not closed.
    """
    if edges := boundary_edges(faces):
        raise ValueError(f"the mesh to remesh is not closed: {edges} boundary edges")
    points, triangles = collapse_edges(vertices, faces, count)
    smooth = laplacian(triangles, len(points))
    surface = surface_tree(vertices, faces)
    for _ in range(rounds):
        normals = vertex_normals(points, triangles)
        step = -0.5 * (smooth @ points)
        step -= (step * normals).sum(1, keepdims=True) * normals
        points = closest_on(surface, points + step).point
    return unfold(points, triangles), triangles


def collapse_edges(
    vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"], count: int
) -> tuple[Float[ndarray, "V2 3"], Int[ndarray, "F2 3"]]:
    """Collapse the shortest edges to their midpoints until `count` vertices are left, or none may go.

    An edge may go if its ends share just the two neighbours opposite it, no vertex gets more than nine
    neighbours and no face turns by more than about 75 degrees.
    """
    place = [tuple(point) for point in vertices.tolist()]
    corners: list[tuple[int, int, int] | None] = [tuple(face) for face in faces.tolist()]
    around: list[set[int]] = [set() for _ in place]
    for face, triangle in enumerate(corners):
        for vertex in triangle:
            around[vertex].add(face)
    edges = {(min(a, b), max(a, b)) for t in corners for a, b in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))}
    heap = [(_squared(place[a], place[b]), a, b) for a, b in sorted(edges)]
    heapq.heapify(heap)
    left = len(place)
    while left > count and heap:
        length, a, b = heapq.heappop(heap)
        if not around[a] or not around[b] or abs(length - _squared(place[a], place[b])) > 1e-12:
            continue  # one end is gone or has moved: its new edges are in the heap
        shared = around[a] & around[b]
        near_a = {v for face in around[a] for v in corners[face]} - {a}
        near_b = {v for face in around[b] for v in corners[face]} - {b}
        if len(shared) != 2 or len(near_a & near_b) != 2 or not 3 < len(near_a | near_b) - 2 <= 9:
            continue
        if any(len(around[v]) <= 3 for v in near_a & near_b):
            continue
        middle = _middle(place[a], place[b])
        if any(_turns(corners[f], a, middle, place) for f in around[a] - shared):
            continue
        if any(_turns(corners[f], b, middle, place) for f in around[b] - shared):
            continue
        for face in shared:
            for vertex in corners[face]:
                around[vertex].discard(face)
            corners[face] = None
        for face in around[b]:
            corners[face] = tuple(a if v == b else v for v in corners[face])
        around[a] |= around[b]
        around[b] = set()
        place[a] = middle
        left -= 1
        for vertex in sorted((near_a | near_b) - {a, b}):
            low, high = sorted((a, vertex))
            heapq.heappush(heap, (_squared(middle, place[vertex]), low, high))
    keep = np.array([bool(faces_around) for faces_around in around])
    number = np.cumsum(keep) - 1
    return np.array(place)[keep], number[np.array([t for t in corners if t is not None], dtype=np.int64)]


def _squared(a: tuple, b: tuple) -> float:
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2


def _middle(a: tuple, b: tuple) -> tuple[float, float, float]:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2


def _turns(triangle: tuple[int, int, int], moved: int, to: tuple, place: list[tuple]) -> bool:
    """Whether a triangle's normal turns by more than about 75 degrees when one corner moves."""
    i = triangle.index(moved)
    bx, by, bz = place[triangle[i - 2]]
    cx, cy, cz = place[triangle[i - 1]]
    ux, uy, uz = cx - bx, cy - by, cz - bz
    ax, ay, az = place[moved]
    vx, vy, vz = ax - bx, ay - by, az - bz
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    ax, ay, az = to
    vx, vy, vz = ax - bx, ay - by, az - bz
    mx, my, mz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    dot = nx * mx + ny * my + nz * mz
    return dot <= 0 or dot * dot <= 0.0625 * (nx * nx + ny * ny + nz * nz) * (mx * mx + my * my + mz * mz)
