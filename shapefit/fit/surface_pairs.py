"""Nearest points between a shape model and the surfaces of a segmentation, bone by bone, both ways."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Float, Int
from numpy import ndarray

from shapefit.mesh import SurfaceTree, closest_on, require_closed, sample_surface, surface_tree
from shapefit.settings import ProjectSettings
from shapefit.shape_model import ShapeModel


class Bone(NamedTuple):
    """A structure that model and case share."""

    used: Int[ndarray, " U"]  # vertices of the model that belong to it
    faces: Int[ndarray, "F 3"]  # numbering `used` from 0
    target: SurfaceTree  # the case's surface, world mm
    points: Float[ndarray, "N 3"]  # samples of that surface in random order, world mm


class Pairs(NamedTuple):
    """Points of the model (vertex index and barycentric coordinates) and where they should be (model mm).

    The weights of each direction add up to one half, so that the weighted distance is the ASSD.
    """

    index: Int[ndarray, "N 3"]
    barycentric: Float[ndarray, "N 3"]
    goals: Float[ndarray, "N 3"]
    weights: Float[ndarray, " N"]

    def on(self, shape: Float[ndarray, "V 3"]) -> Float[ndarray, "N 3"]:
        """The model's points for vertices in the model frame (mm)."""
        return np.einsum("nk,nkd->nd", self.barycentric, shape[self.index])

    def distances(self, shape: Float[ndarray, "V 3"]) -> Float[ndarray, " N"]:
        """Distance in mm of every point from its goal."""
        return np.linalg.norm(self.on(shape) - self.goals, axis=1)


def shared_bones(
    model: ShapeModel, surfaces: Mapping[str, trimesh.Trimesh], settings: ProjectSettings
) -> tuple[Bone, ...]:
    """The structures in both. Raises ValueError if there is none, or if a mesh is not closed."""
    names = [name for name in model.names if name in surfaces]
    if not names:
        raise ValueError(
            f"the case has none of the model's structures ({', '.join(model.names)}); "
            f"it has {', '.join(surfaces) or 'none'}"
        )
    faces, structure = model.faces.numpy(), model.structure.numpy()
    total = sum(float(surfaces[name].area) for name in names)
    bones = []
    for name in names:
        mesh = surfaces[name]
        vertices, triangles = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
        require_closed(vertices, triangles, name)
        used, local = np.unique(faces[structure == model.names.index(name)], return_inverse=True)
        count = max(200, round(settings.samples * float(mesh.area) / total))
        points, _ = sample_surface(vertices, triangles, count, settings.seed)
        points = points[np.random.default_rng(settings.seed).permutation(count)]
        bones.append(Bone(used, local.reshape(-1, 3), surface_tree(vertices, triangles), points))
    return tuple(bones)


def shape_trees(shape: Float[ndarray, "V 3"], bones: Sequence[Bone]) -> list[SurfaceTree]:
    """The model's own bones prepared for queries, in the model frame; valid while the shape stays."""
    return [surface_tree(shape[bone.used], bone.faces) for bone in bones]


def find_pairs(
    shape: Float[ndarray, "V 3"],
    pose: Float[ndarray, "4 4"],
    bones: Sequence[Bone],
    trees: Sequence[SurfaceTree] | None = None,
    thin: int = 1,
) -> Pairs:
    """Nearest points of each bone on its counterpart, in both directions.

    `shape` holds vertices in the model frame (mm), `pose` is world_from_model, `trees` are those of the
    shape where they are known already; only every `thin`-th point is asked.
    """
    trees = shape_trees(shape, bones) if trees is None else trees
    inverse = np.linalg.inv(pose)
    areas = [_vertex_areas(shape[bone.used], bone.faces)[::thin] for bone in bones]
    total = sum(area.sum() for area in areas)
    count = sum(len(bone.points[::thin]) for bone in bones)
    parts = []
    for bone, tree, area in zip(bones, trees, areas, strict=True):
        asked = bone.used[::thin]
        ahead = closest_on(bone.target, moved(pose, shape[asked])).point
        here = np.tile([1.0, 0.0, 0.0], (len(asked), 1))
        parts.append(Pairs(np.tile(asked[:, None], 3), here, moved(inverse, ahead), area / total / 2))
        points = moved(inverse, bone.points[::thin])
        back = closest_on(tree, points)
        weights = np.full(len(points), 0.5 / count)
        parts.append(Pairs(bone.used[bone.faces[back.face]], back.barycentric, points, weights))
    return Pairs(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def moved(matrix: Float[ndarray, "4 4"], points: Float[ndarray, "N 3"]) -> Float[ndarray, "N 3"]:
    """Points after an affine map."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _vertex_areas(vertices: ndarray, faces: ndarray) -> ndarray:
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.bincount(faces.reshape(-1), np.repeat(np.linalg.norm(cross, axis=1) / 6, 3), len(vertices))
