"""Which way faces are turned, and what hangs together: for meshes that are not closed yet."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from shapefit.mesh import undirected_edges


def wound_alike(points: ndarray, triangles: ndarray, name: str) -> tuple[ndarray, int]:
    """Neighbours wound alike: in each connected surface the smaller area is turned.

    Every face is there twice, as it is and turned; what shares an edge rightly is linked. A surface falls
    into two such sheets, each the other's back, or into one if it is one-sided.
    """
    edges, number = undirected_edges(triangles)
    upward = edges[:, 0] < edges[:, 1]
    order = np.argsort(number, kind="stable")
    two = order[np.bincount(number)[number[order]] == 2].reshape(-1, 2)
    f, g = (two // 3).T
    opposed = upward[two[:, 0]] != upward[two[:, 1]]
    n = len(triangles)
    rows, columns = np.concatenate([f, f + n]), np.concatenate([g + n * ~opposed, g + n * opposed])
    links = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(2 * n, 2 * n))
    _, sheet = connected_components(links, directed=False)
    kept, turned = sheet[:n], sheet[n:]
    if (kept == turned).any():
        raise ValueError(f"{name} has a one-sided surface, like a Moebius band: it has no inside")
    share = np.bincount(kept, areas(points, triangles), minlength=sheet.max() + 1)
    turn = (share[kept] < share[turned]) | ((share[kept] == share[turned]) & (kept > turned))
    return np.where(turn[:, None], triangles[:, ::-1], triangles), int(turn.sum())


def outward(points: ndarray, triangles: ndarray) -> tuple[ndarray, int]:
    """The whole turned if its volume is negative, then each piece that is inside out and in no other one."""
    turn = np.zeros(len(triangles), dtype=bool)
    if signed_volume(points, triangles) < 0:
        turn[:] = True
    piece = pieces(triangles)
    volumes = np.bincount(piece, cones(points, triangles) * np.where(turn, -1, 1))
    for number in np.flatnonzero(volumes < 0):
        own = piece == number
        # within another piece it is a cavity
        if abs(_winding(points[triangles[own][0, 0]], points, triangles[~own])) < 0.5:
            turn[own] ^= True
    return np.where(turn[:, None], triangles[:, ::-1], triangles), int(turn.sum())


def _winding(place: Float[ndarray, " 3"], points: ndarray, triangles: ndarray) -> float:
    """How often a closed mesh goes round a point (solid angle: van Oosterom and Strackee 1983)."""
    a, b, c = (points[triangles[:, k]] - place for k in range(3))
    la, lb, lc = (np.linalg.norm(e, axis=1) for e in (a, b, c))
    above = (a * np.cross(b, c)).sum(1)
    below = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
    return float(np.arctan2(above, below).sum() / (2 * np.pi))


def pieces(triangles: Int[ndarray, "F 3"]) -> Int[ndarray, " F"]:
    """Which connected piece each face belongs to."""
    ends = triangles[:, [0, 1]].ravel(), triangles[:, [1, 2]].ravel()
    links = sparse.coo_matrix((np.ones(len(ends[0])), ends), shape=(int(triangles.max(initial=0)) + 1,) * 2)
    _, piece = connected_components(links, directed=False)
    return np.unique(piece[triangles[:, 0]], return_inverse=True)[1].reshape(-1)


def areas(points: ndarray, triangles: ndarray) -> Float[ndarray, " F"]:
    a, b, c = (points[triangles[:, k]] for k in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def cones(points: ndarray, triangles: ndarray) -> Float[ndarray, " F"]:
    """Signed volumes of the cones from the middle of the mesh to its faces."""
    middle = (points[triangles].min((0, 1)) + points[triangles].max((0, 1))) / 2
    a, b, c = (points[triangles[:, k]] - middle for k in range(3))
    return (a * np.cross(b, c)).sum(1) / 6


def signed_volume(points: ndarray, triangles: ndarray) -> float:
    return float(cones(points, triangles).sum())
