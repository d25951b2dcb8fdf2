"""How truly a template lies on a case: distances, normals, folds, and the thin and sharp parts by themselves.

Figures of one case, model surface against segmentation surface, from samples uniform in area on each (as
many on every structure, so that a small bone counts like a large one):

- residual: distance (mm) of a sample to the nearest point of the other surface, in both directions.
- normals: angle (degrees) between the surfaces' normals at a sample and at the point nearest to it, both
  directions together. Normals are interpolated between vertices. A sheet registered on its wrong side
  shows an angle near 180, which no distance tells.
- thin: the residual, segmentation to model, of samples at which the largest ball that touches the surface
  from inside has a radius below `THIN`: sheets thinner than twice that, and edges and tips sharper than it.
- places: the same residual within `NEAR` of each landmark and of each structure's six ends along the axes
  of the body. The crest of the ilium is its superior end, the tip of the sacrum its inferior one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.spatial import cKDTree
from torch import Tensor

from shapefit.mesh import SurfaceTree, closest_on, sample_surface, surface_tree
from shapefit.pairs import corner_cross, unit, vertex_normals
from shapefit.registration import flipped_faces
from shapefit.shape_model import ShapeModel

THIN = 3.0  # mm, radius of the inscribed ball below which a place counts as thin or sharp
NEAR = 10.0  # mm, what lies within this of a landmark or an end belongs to it
WIDE = 30.0  # degrees, angle between normals above which they are said to disagree
ENDS = {"right": 0, "left": 0, "anterior": 1, "posterior": 1, "superior": 2, "inferior": 2}  # axis in RAS


class _Side(NamedTuple):
    """A surface with its vertex normals, ready for queries, and samples of it with theirs."""

    vertices: ndarray
    faces: ndarray
    vertex_normals: ndarray
    tree: SurfaceTree
    points: ndarray
    normals: ndarray


def registration_quality(
    shape: Float[Tensor, "V 3"],
    model: ShapeModel,
    surfaces: Mapping[str, trimesh.Trimesh],
    landmarks: Mapping[str, Float[ndarray, "R 3"]] | None = None,
    samples: int = 20_000,
) -> dict:
    """Figures of one registered training shape (world mm), as defined above, ready for JSON.

    `surfaces` are the segmentation's closed meshes by structure, `landmarks` the readings of the same case.
    `flipped_faces` counts faces that are folded over or collapsed.
    """
    ahead, back, angles, radii, places = [], [], [], [], {}
    count = samples // len(model.names)
    sampled = []
    for name, mesh in model.surfaces(shape).items():
        own, target = _side(mesh, count), _side(surfaces[name], count)
        distance, angle = _across(own, target)
        ahead.append(distance)
        angles.append(angle)
        distance, angle = _across(target, own)
        back.append(distance)
        angles.append(angle)
        radii.append(inscribed_radius(target.points, target.normals, target.vertices))
        sampled.append(target.points)
        for end, axis in ENDS.items():
            height = target.points[:, axis] * (-1 if end in ("left", "posterior", "inferior") else 1)
            tip = target.points[height.argmax()]
            places[f"{name}, {end} end"] = _spread(distance[_within(target.points, tip)])
    points, residual, radius = np.concatenate(sampled), np.concatenate(back), np.concatenate(radii)
    for name, readings in (landmarks or {}).items():
        near = _within(points, readings.mean(0))
        if near.any():
            places[name] = _spread(residual[near])
    angle, thin = np.concatenate(angles), radius < THIN
    return {
        "model_to_segmentation": _spread(np.concatenate(ahead)),
        "segmentation_to_model": _spread(residual),
        "normals": _spread(angle) | {"share_beyond_30_degrees": float((angle > WIDE).mean())},
        "thin": (_spread(residual[thin]) if thin.any() else {}) | {"share": float(thin.mean())},
        "places": places,
        "flipped_faces": len(flipped_faces(shape.numpy(), model.faces.numpy())),
    }


def registration_means(rows: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """Means over cases of the residuals both ways, the normals and the thin parts."""
    kinds = ("model_to_segmentation", "segmentation_to_model", "normals", "thin")
    return {
        kind: {
            figure: float(np.mean([row[kind][figure] for row in rows if figure in row[kind]]))
            for figure in {figure: None for row in rows for figure in row[kind]}
        }
        for kind in kinds
    }


def coverage(cases: Mapping[str, Mapping]) -> dict:
    """The places of all cases (`registration_quality` by case): mean over cases, and which case is worst."""
    names = {name: None for row in cases.values() for name in row["places"]}
    places = []
    for name in names:
        rows = {case: row["places"][name] for case, row in cases.items() if name in row["places"]}
        worst = max(rows, key=lambda case: rows[case]["max"])
        figures = {
            figure: float(np.mean([row[figure] for row in rows.values()])) for figure in ("mean", "p95")
        }
        places.append({"place": name} | figures | {"max": rows[worst]["max"], "worst_case": worst})
    return {"thin_radius": THIN, "place_radius": NEAR, "places": places}


def inscribed_radius(
    points: Float[ndarray, "N 3"],
    normals: Float[ndarray, "N 3"],
    cloud: Float[ndarray, "M 3"],
    limit: float = 30.0,
) -> Float[ndarray, " N"]:
    """Radius (mm) of the largest ball that touches a surface at each point from inside, at most `limit`.

    `normals` are outward and of length 1, `cloud` are points all over the surface. The ball shrinks until
    no point of the cloud lies in it (Ma, Bae and Choi 2012, Vis. Comput. 28:7).
    """
    tree, radius, live = cKDTree(cloud), np.full(len(points), limit), np.arange(len(points))
    while len(live):
        own, normal = points[live], normals[live]
        centre = own - radius[live, None] * normal
        _, near = tree.query(centre)
        chord = own - cloud[near]
        height = 2 * (chord * normal).sum(1)
        smaller = (chord**2).sum(1) / np.maximum(height, 1e-9)
        # two points of contact under a small angle are the surface's graininess, not its other side
        seen = (unit(cloud[near] - own + smaller[:, None] * normal) * normal).sum(1)
        goes_on = (smaller < radius[live] - 0.01) & (height > 0) & (seen < np.cos(np.radians(20)))
        radius[live[goes_on]] = smaller[goes_on]
        live = live[goes_on]
    return radius


def _side(mesh: trimesh.Trimesh, count: int) -> _Side:
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    points, face = sample_surface(vertices, faces, count)
    around, tree = vertex_normals(vertices, faces), surface_tree(vertices, faces)
    a, b, c = tree.corners[face].transpose(1, 0, 2)
    whole = corner_cross(vertices, faces)[face]
    # each corner weighs as much as the triangle between the point and the edge across
    weights = [(np.cross(q - p, points - p) * whole).sum(1) for p, q in ((b, c), (c, a), (a, b))]
    normals = np.einsum("kn,nkd->nd", np.stack(weights), around[faces[face]])
    return _Side(vertices, faces, around, tree, points, unit(normals))


def _across(source: _Side, target: _Side) -> tuple[ndarray, ndarray]:
    """Distance in mm and angle in degrees from the samples of one surface to the other."""
    found = closest_on(target.tree, source.points)
    normals = np.einsum("nk,nkd->nd", found.barycentric, target.vertex_normals[target.faces[found.face]])
    cosine = (unit(normals) * source.normals).sum(1)
    return found.distance, np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _within(points: ndarray, place: ndarray) -> Bool[ndarray, " N"]:
    return np.linalg.norm(points - place, axis=1) < NEAR


def _spread(values: ndarray) -> dict[str, float]:
    p95 = float(np.percentile(values, 95))
    return {"mean": float(values.mean()), "p95": p95, "max": float(values.max())}
