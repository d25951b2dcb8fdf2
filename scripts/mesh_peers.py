"""The peers of `benchmark_mesh.py`: an adapter from a scene to each renderer that can see through a mesh.

Each is the best honest recipe known to its documentation, in float32. Sources and ray directions are made
ready beforehand in the peer's own types and accelerating structures are built in `place`, which is timed
apart; so the peers are timed for finding the hits and for what they do with them.
"""

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from mesh_scenes import Scene

Gradient = Callable[[], tuple[np.ndarray, np.ndarray]]


class Peer(NamedTuple):
    place: Callable[[], None] | None  # take the vertices anew, as after a step of an optimisation
    forward: Callable[[], np.ndarray]  # path lengths (H, W) or (H W,), mm
    backward: Gradient | None  # the image, and the gradient of its weighted sum in the vertices (V, 3)


def gvxr(scene: Scene, threads: int, layers: int, filtered: bool = False) -> Peer:
    """The X-ray of a material of 0.001/mm without noise, and its logarithm: cheaper than computeLBuffer."""
    from gvxrPython3 import gvxr as g

    _gvxr_window()
    (g.enableArtefactFilteringOnGPU if filtered else g.disableArtefactFiltering)()
    c, back = scene.camera, np.linalg.inv(scene.pose)
    middle = back @ [-c.x0, -c.y0, c.sdd, 1]
    g.setSourcePosition(*back[:3, 3].tolist(), "mm")
    g.usePointSource()
    g.setMonoChromatic(1.0, "MeV", 1)
    g.setDetectorPosition(*middle[:3].tolist(), "mm")
    g.setDetectorRightVector(*back[:3, 0].tolist())
    g.setDetectorUpVector(*(-back[:3, 1]).tolist())
    g.setDetectorNumberOfPixels(c.width, c.height)
    g.setDetectorPixelSize(c.delx, c.dely, "mm")
    vertices, faces = scene.vertices.astype(np.float32).ravel(), scene.faces.astype(np.int32).ravel()
    energy = np.empty((c.height, c.width), np.float32)

    def place():
        g.removePolygonMeshesFromXRayRenderer()
        g.removePolygonMeshesFromSceneGraph()
        g.makeTriangularMesh("mesh", vertices, faces, "mm")
        g.setLinearAttenuationCoefficient("mesh", 0.01, "cm-1")
        g.addPolygonMeshAsInnerSurface("mesh")

    def forward():
        g.computeXRayImage(energy)
        return np.log(energy[::-1]) * -1000.0  # its rows go upwards

    place()
    return Peer(place, forward, None)


@cache
def _gvxr_window() -> None:
    from gvxrPython3 import gvxr

    gvxr.createWindow(-1, 0, "EGL")


def gvxr_filtered(scene: Scene, threads: int, layers: int) -> Peer:
    return gvxr(scene, threads, layers, filtered=True)


def mitsuba(scene: Scene, threads: int, layers: int) -> Peer:
    """Mitsuba 3 on LLVM and Embree, going on from each hit as its `spawn_ray` does."""
    from mesh_mitsuba import hit_loop

    return Peer(*hit_loop(scene, threads, None))


def mitsuba_step(scene: Scene, threads: int, layers: int) -> Peer:
    """The same, going on 1e-3 mm beyond each hit."""
    from mesh_mitsuba import hit_loop

    return Peer(*hit_loop(scene, threads, 1e-3))


def open3d(scene: Scene, threads: int, layers: int) -> Peer:
    """`list_intersections`; the gradient by hand from its list, as Open3D has none."""
    import open3d as o3d

    source, directions = scene.rays()
    rays = np.concatenate([np.broadcast_to(source, directions.shape), directions], -1).astype(np.float32)
    rays, vertices = o3d.core.Tensor(rays), o3d.core.Tensor(scene.vertices.astype(np.float32))
    faces, held = o3d.core.Tensor(scene.faces.astype(np.uint32)), {}

    def place():
        held["scene"] = o3d.t.geometry.RaycastingScene(nthreads=threads)
        held["scene"].add_triangles(vertices, faces)
        held["scene"].list_intersections(rays[:1], nthreads=threads)  # builds it

    def listed():
        found = held["scene"].list_intersections(rays, nthreads=threads)
        ray, face = (found[key].numpy().astype(np.int64) for key in ("ray_ids", "primitive_ids"))
        uv = found["primitive_uvs"].numpy()
        return ray, face, found["t_hit"].numpy(), np.stack([1 - uv[:, 0] - uv[:, 1], uv[:, 0], uv[:, 1]], -1)

    place()
    return Peer(place, *_from_hits(scene, directions, listed))


def embree(scene: Scene, threads: int, layers: int) -> Peer:
    """Trimesh's ray queries on Embree (one thread); the gradient by hand from its hits."""
    import trimesh
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    source, directions = scene.rays()
    sources, held = np.broadcast_to(source, directions.shape), {}

    def place():
        mesh = trimesh.Trimesh(scene.vertices, scene.faces, process=False)
        held["mesh"], held["scene"] = mesh, RayMeshIntersector(mesh)
        held["scene"].intersects_id(sources[:1], directions[:1])  # builds it

    def listed():
        face, ray, place = held["scene"].intersects_id(sources, directions, return_locations=True)
        t = ((place - source) * directions[ray]).sum(-1)
        return (
            ray,
            face,
            t,
            lambda: trimesh.triangles.points_to_barycentric(held["mesh"].triangles[face], place),
        )

    place()
    return Peer(place, *_from_hits(scene, directions, listed))


def _from_hits(scene, directions, listed):
    """Image and gradient from a list of hits: t moves with corner k by (weight of k) N / (N . d)."""
    pixels = len(directions)
    a, b, c = (scene.vertices[scene.faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)

    def gather():
        ray, face, t, corners = listed()
        normal = normals[face]
        slope = (normal * directions[ray]).sum(-1)
        return np.bincount(ray, np.sign(slope) * t, pixels), ray, face, corners, normal, slope

    def forward():
        return gather()[0]

    def backward():
        image, ray, face, corners, normal, slope = gather()
        corners = corners() if callable(corners) else corners
        scale = np.where(slope == 0, 0, scene.weight().ravel()[ray] / np.where(slope == 0, 1, np.abs(slope)))
        share = (corners * scale[:, None])[:, :, None] * normal[:, None]
        corner = scene.faces[face].ravel()
        sums = [np.bincount(corner, share[:, :, x].ravel(), len(scene.vertices)) for x in range(3)]
        return image, np.stack(sums, -1)

    return forward, backward


@cache
def _warp_kernels() -> SimpleNamespace:
    import warp as wp

    wp.config.quiet = True

    @wp.kernel
    def paths(
        mesh: wp.uint64, source: wp.vec3, directions: wp.array(dtype=wp.vec3), path: wp.array(dtype=float)
    ):
        pixel = wp.tid()
        d = directions[pixel]
        t, total = wp.float32(0.0), wp.float32(0.0)  # a plain 0.0 would be a constant
        for _ in range(200):
            hit = wp.mesh_query_ray(mesh, source + t * d, d, 1.0e6)
            if not hit.result:
                break
            t = t + hit.t
            total = total + t * wp.sign(wp.dot(hit.normal, d))
            t = t + 1.0e-3
        path[pixel] = total

    @wp.kernel
    def adjoint(
        mesh: wp.uint64, source: wp.vec3, directions: wp.array(dtype=wp.vec3), faces: wp.array(dtype=int),
        weight: wp.array(dtype=float), gradient: wp.array(dtype=wp.vec3),
    ):  # fmt: skip
        pixel = wp.tid()
        d = directions[pixel]
        t = wp.float32(0.0)
        for _ in range(200):
            hit = wp.mesh_query_ray(mesh, source + t * d, d, 1.0e6)
            if not hit.result:
                break
            slope = wp.abs(wp.dot(hit.normal, d))
            if slope > 0.0:
                share = hit.normal * (weight[pixel] / slope)
                wp.atomic_add(gradient, faces[3 * hit.face], hit.u * share)
                wp.atomic_add(gradient, faces[3 * hit.face + 1], hit.v * share)
                wp.atomic_add(gradient, faces[3 * hit.face + 2], (1.0 - hit.u - hit.v) * share)
            t = t + hit.t + 1.0e-3

    return SimpleNamespace(paths=paths, adjoint=adjoint)


def warp(scene: Scene, threads: int, layers: int) -> Peer:
    """`mesh_query_ray` again and again, each 1e-3 mm beyond the last hit; the adjoint written by hand.

    Warp runs a kernel on the CPU in one thread.
    """
    import warp as wp

    kernels = _warp_kernels()
    start, directions = scene.rays()
    with wp.ScopedDevice("cpu"):
        source, beam = wp.vec3(*start.tolist()), wp.array(directions.astype(np.float32), dtype=wp.vec3)
        points = wp.array(scene.vertices.astype(np.float32), dtype=wp.vec3)
        faces = wp.array(scene.faces.astype(np.int32).ravel(), dtype=int)
        weight, path = wp.array(scene.weight().ravel(), dtype=float), wp.zeros(len(directions), dtype=float)
        gradient, held = wp.zeros(len(scene.vertices), dtype=wp.vec3), {}

        def place():
            held["mesh"] = wp.Mesh(wp.clone(points), faces)

        def forward():
            wp.launch(kernels.paths, len(directions), [held["mesh"].id, source, beam], [path], device="cpu")
            return path.numpy()

        def backward():
            image = forward()
            gradient.zero_()
            inputs = [held["mesh"].id, source, beam, faces, weight]
            wp.launch(kernels.adjoint, len(directions), inputs, [gradient], device="cpu")
            return image, gradient.numpy()

        place()
    return Peer(place, forward, backward)


def pytorch3d(scene: Scene, threads: int, layers: int) -> Peer:
    """`rasterize_meshes` with as many faces per pixel as there are layers; signs by the faces' winding."""
    import torch
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    torch.set_num_threads(threads)
    c, k = scene.camera, scene.camera.intrinsics(torch.float32)
    vertices, faces = torch.from_numpy(scene.vertices).float(), torch.from_numpy(scene.faces)
    pose, weight = torch.from_numpy(scene.pose).float(), torch.from_numpy(scene.weight())
    q = torch.from_numpy(scene.rays()[1]).float() @ pose[:3, :3].T
    lengths = (1 / q[:, 2]).view(c.height, c.width)

    def image(at):
        seen = at @ pose[:3, :3].T + pose[:3, 3]
        p = seen @ k.T
        ndc = torch.stack(
            [1 - (2 * p[:, 0] / p[:, 2] + 1) / c.width, 1 - (2 * p[:, 1] / p[:, 2] + 1) / c.height, p[:, 2]],
            -1,
        )
        face, depth, _, _ = rasterize_meshes(
            Meshes([ndc], [faces]), (c.height, c.width), 0.0, layers, perspective_correct=True
        )
        corners = seen.detach().double()[faces]
        exits = torch.linalg.det(corners).sign().float()
        return (torch.where(face >= 0, exits[face] * depth, 0.0).sum(-1) * lengths)[0]

    def backward():
        at = vertices.clone().requires_grad_()
        made = image(at)
        (made * weight).sum().backward()
        return made.detach().numpy(), at.grad.numpy()

    return Peer(None, lambda: image(vertices).numpy(), backward)
