"""Meshes with materials -> X-ray pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shapefit.camera import Camera
from shapefit.interop import accepts_foreign
from shapefit.mesh import vertex_normals
from shapefit.render.mesh import numbered, render_mesh
from shapefit.render.signal import PANEL, Detector, detector_blur, detector_signal, poisson_noise
from shapefit.spectra import Spectrum


@dataclass(frozen=True)
class Bone:
    """A structure of two materials: a cortical shell of even thickness around the interior."""

    shell: float = 1.6  # mm
    cortex: str = "cortical bone"
    interior: str = "trabecular bone"

    def __post_init__(self):
        if not self.shell >= 0:
            raise ValueError(f"the shell of a bone must be 0 mm thick or more, got {self.shell:g}")


@accepts_foreign
def shell_and_interior(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    shell: float,
    structure: Int[Tensor, "F"] | None = None,
) -> tuple[Float[Tensor, "B S H W"], Float[Tensor, "B 1 H W"]]:
    """Path lengths (mm) within each structure's outer surface, and within all inner surfaces together.

    The inner surface is the outer one offset by `shell` mm against its normals; the difference of
    the two paths is that within the cortex. Where a bone is thinner than two shells the inner surface turns
    inside out and its path is negative. Errors are those of `render_mesh`.
    """
    structure, count = numbered(faces, structure)
    inner = vertices - shell * vertex_normals(vertices, faces)
    both = torch.cat([vertices, inner], 1)
    both_faces = torch.cat([faces, faces + vertices.shape[1]])
    channel = torch.cat([structure, torch.full_like(structure, count)])
    paths = render_mesh(both, both_faces, camera_from_world, camera, channel, count + 1)
    return paths[:, :count], paths[:, count:]


@accepts_foreign
def material_paths(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    structure: Int[Tensor, "F"] | None,
    materials: Sequence[str | Bone],
    within: Sequence[int] | None = None,
) -> tuple[Float[Tensor, "B M H W"], list[str]]:
    """Path lengths (mm) in each material, none of them negative, and the materials' names.

    `materials` says what each structure is made of. `within` numbers the structure that each one lies in,
    -1 for the air around (all, if absent): there it takes the place of the matter around it, whose path is
    that within its surface less those within the surfaces of the structures in it. In a bone the interior is
    displaced first. Structures that overlap without one being within the other both count in full. What would
    be negative is 0: an inner structure reaches out of its outer one, or structures in the same one overlap.
    Where a bone is thinner than two shells it is cortex alone.
    Errors are those of `render_mesh`; ValueError also for numbers of materials or nestings that do not fit.
    """
    structure, count = numbered(faces, structure)
    within = [-1] * count if within is None else list(within)
    _require_nesting(count, materials, within)
    both, both_faces, channel = _with_inner_surfaces(vertices, faces, structure, materials)
    paths = render_mesh(both, both_faces, camera_from_world, camera, channel)
    outer = paths[:, :count]
    parts: dict[str, Tensor] = {}
    for s, material in enumerate(materials):
        inside = [n for n, around in enumerate(within) if around == s]
        displaced = outer[:, inside].sum(1)
        if isinstance(material, Bone):
            interior = torch.minimum(paths[:, count + s].clamp(min=0), outer[:, s])
            cortex = outer[:, s] - interior
            beyond = (displaced - interior).clamp(min=0)
            lengths = [(material.interior, interior - displaced), (material.cortex, cortex - beyond)]
        else:
            lengths = [(material, outer[:, s] - displaced)]
        for name, length in lengths:
            length = length.clamp(min=0)
            parts[name] = parts[name] + length if name in parts else length
    return torch.stack(list(parts.values()), 1), list(parts)


@accepts_foreign
def render_xray(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    structure: Int[Tensor, "F"] | None,
    materials: Sequence[str | Bone],
    spectrum: Spectrum,
    within: Sequence[int] | None = None,
    detector: Detector = PANEL,
    photons: float | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B 1 H W"]:
    """X-ray picture of structures with materials: intensity as a share of the open beam, bone dark.

    `materials` and `within` are those of `material_paths`; a `Bone` is a cortical shell with an interior.
    Noise of `photons` per pixel of the open beam comes last and ends differentiability; without it the
    picture is differentiable in vertices, pose and camera.
    Errors are those of `material_paths`, `detector_signal`, `detector_blur` and `poisson_noise`.
    """
    paths, names = material_paths(vertices, faces, camera_from_world, camera, structure, materials, within)
    picture = detector_blur(detector_signal(paths, names, spectrum, detector), detector.blur, camera)
    return picture if photons is None else poisson_noise(picture, photons, generator)


def _with_inner_surfaces(
    vertices: Tensor, faces: Tensor, structure: Tensor, materials: Sequence[str | Bone]
) -> tuple[Tensor, Tensor, Tensor]:
    """The mesh with the inner surfaces of its S structures: that of bone s is channel S + s."""
    bones = torch.tensor([isinstance(m, Bone) for m in materials], device=faces.device)[structure]
    shells = [m.shell if isinstance(m, Bone) else 0.0 for m in materials]
    thickness = torch.zeros_like(vertices[0])
    thickness[faces] = torch.tensor(shells).to(vertices)[structure][:, None, None].expand(-1, 3, 3)
    inner = vertices - thickness * vertex_normals(vertices, faces)
    return (
        torch.cat([vertices, inner], 1),
        torch.cat([faces, faces[bones] + vertices.shape[1]]),
        torch.cat([structure, structure[bones] + len(materials)]),
    )


def _require_nesting(count: int, materials: Sequence[str | Bone], within: list[int]) -> None:
    if not len(materials) == len(within) == count:
        raise ValueError(
            f"{count} structures need as many materials and as many entries of `within`, "
            f"got {len(materials)} and {len(within)}"
        )
    if bad := [around for around in within if not -1 <= around < count]:
        raise ValueError(f"`within` numbers structures from 0 to {count - 1}, or is -1; got {bad[0]}")
    for start in range(count):
        seen, at = set(), start
        while at >= 0:
            if at in seen:
                raise ValueError(f"structure {start} lies within itself: `within` is {within}")
            seen.add(at)
            at = within[at]
