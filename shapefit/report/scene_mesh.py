"""Meshes as pages take them: light enough to turn smoothly, packed as base64 typed arrays."""

from collections.abc import Sequence

import fast_simplification
import numpy as np
import trimesh
from jaxtyping import Float

from shapefit.alignment import Alignment
from shapefit.image_metrics import in_view
from shapefit.mesh import closest_points
from shapefit.report.colours import REFERENCE
from shapefit.report.page import base64_of, readable
from shapefit.surface_distance import join
from shapefit.view import View

Surfaces = dict[str, trimesh.Trimesh]
FACES_SHOWN = 24_000  # in all, per scene: what turns smoothly on a laptop without a graphics card


def lighten(surfaces: Surfaces, faces: int = FACES_SHOWN) -> Surfaces:
    """The surfaces with at most about so many faces in all (quadric decimation), for display only."""
    total = sum(len(mesh.faces) for mesh in surfaces.values())
    if total <= faces:
        return surfaces
    light = {}
    for name, mesh in surfaces.items():
        vertices, triangles = fast_simplification.simplify(
            np.asarray(mesh.vertices, dtype=np.float32),
            np.asarray(mesh.faces, dtype=np.int32),
            target_count=max(200, round(len(mesh.faces) * faces / total)),
        )
        light[name] = trimesh.Trimesh(vertices, triangles, process=False)
    return light


def pack(name: str, mesh: trimesh.Trimesh, colour: str, opacity: float = 1.0, label: str = "") -> dict:
    """One mesh for `shapefit.trace` in page.js: float32 mm and uint32 faces."""
    return {
        "name": name,
        "label": label or readable(name),
        "colour": colour,
        "opacity": opacity,
        "vertices": base64_of(np.asarray(mesh.vertices, dtype=np.float32)),
        "faces": base64_of(np.asarray(mesh.faces, dtype=np.uint32)),
    }


ErrorMap = dict[str, dict[str, np.ndarray]]  # alignment -> structure -> distance of each vertex, mm


def error_map(surfaces: Surfaces, truth: Surfaces, alignments: dict[str, Alignment]) -> ErrorMap:
    """Distance in mm from each vertex, moved by each alignment, to the same structure of the truth.

    Structures that the truth lacks are left out.
    """
    return {
        kind: {
            name: vertex_distances(np.asarray(mesh.vertices), truth[name], alignment.matrix)
            for name, mesh in surfaces.items()
            if name in truth
        }
        for kind, alignment in alignments.items()
    }


def pack_result(
    surfaces: Surfaces,
    colours: dict[str, str],
    views: Sequence[View] = (),
    distances: ErrorMap | None = None,
) -> list[dict]:
    """The structures of a result; with posed views, what they show; with an error map, its distances."""
    packed = []
    for name, mesh in surfaces.items():
        item = pack(name, mesh, colours[name])
        if views:
            item["seen"] = base64_of(in_view(np.asarray(mesh.vertices), views).astype(np.uint8))
        if found := {kind: of[name] for kind, of in (distances or {}).items() if name in of}:
            item["distance"] = {kind: base64_of(d.astype(np.float32)) for kind, d in found.items()}
        packed.append(item)
    return packed


def pack_truth(truth: Surfaces) -> list[dict]:
    """The true surfaces as translucent ghosts."""
    return [
        pack(name, mesh, REFERENCE, opacity=0.25, label=f"truth: {readable(name)}")
        for name, mesh in lighten(truth, FACES_SHOWN // 2).items()
    ]


def vertex_distances(
    vertices: Float[np.ndarray, "V 3"], truth: trimesh.Trimesh, matrix: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, " V"]:
    """Distance in mm of each vertex, moved by a matrix, to the nearest point of the true surface."""
    moved = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    return closest_points(moved, np.asarray(truth.vertices), np.asarray(truth.faces)).distance


def unseen_share(surfaces: Surfaces, views: Sequence[View], seed: int = 0) -> float:
    """The share of the area, 0 to 1, that projects inside no detector."""
    points = trimesh.sample.sample_surface(join(list(surfaces.values())), 20_000, seed=seed)[0]
    return float(1 - in_view(np.asarray(points, dtype=np.float64), views).mean())
