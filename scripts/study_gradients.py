"""How gradients of X-rays of meshes behave at silhouettes: against central differences, and with pixel size.

python scripts/study_gradients.py            # prints tables, draws docs/gradients.png; about a minute

A ball of radius 80 mm (icospheres), 700 mm from the source; F is a Gaussian-weighted sum of the image times
the area of a pixel in the ball's plane, so that it tends to an integral as pixels shrink. Three questions,
answered over random poses, are those of docs/gradients.md:
the quotient (F(x + h) - F(x - h)) / 2h against the derivative, for steps h; the noise of the derivative and
of F itself, for pixel sizes; and the slopes of single pixels, for their distance to the silhouette.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import trimesh
import tyro
from scipy.spatial.transform import Rotation

import shapefit as sf

RADIUS, DEPTH, SDD = 80.0, 700.0, 1020.0  # mm
FIELD = 260.0  # mm on the detector
STEPS = np.logspace(-8, 0.5, 18)  # mm
PIXELS = (16, 32, 64, 128, 256)  # a side of the image
# what a picture may be compared by: a path L in mm -> a number; the softened ones are flat where L is 0
TRANSFERS = {
    "L": lambda path: path,
    "1 - exp(-0.02 L)": lambda path: 1 - torch.exp(-0.02 * path),
    "sqrt(L^2 + 20^2) - 20": lambda path: (path.square() + 400).sqrt() - 20,
    "L^2": lambda path: path.square(),
}
INK = ("#1f4e79", "#c0504d", "#4f8f3a", "#7f7f7f")


def ball(subdivisions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices (mm) and faces of an icosphere."""
    mesh = trimesh.creation.icosphere(subdivisions, RADIUS)
    return torch.tensor(np.array(mesh.vertices)), torch.tensor(np.array(mesh.faces))


def poses(count: int, seed: int) -> torch.Tensor:
    """camera_from_world (B, 4, 4): any rotation, the ball's centre within 5 mm of the middle of the beam."""
    rng = np.random.default_rng(seed)
    matrix = np.tile(np.eye(4), (count, 1, 1))
    matrix[:, :3, :3] = Rotation.random(count, rng=rng).as_matrix()
    matrix[:, :3, 3] = rng.uniform(-5, 5, (count, 3)) + np.array([0, 0, DEPTH])
    return torch.from_numpy(matrix)


def functional(
    mesh: tuple[torch.Tensor, torch.Tensor],
    camera_from_world: torch.Tensor,
    shift: torch.Tensor,
    side: int,
    transfer: str = "L",
) -> torch.Tensor:
    """F (mm^3 for L) of each pose, the ball moved by `shift` (B,) mm across the beam."""
    vertices, faces = mesh
    pitch = FIELD / side
    camera = sf.Camera(SDD, pitch, pitch, 0.0, 0.0, side, side)
    across = torch.zeros_like(camera_from_world)
    across[:, 0, 3] = 1
    moved = camera_from_world + shift[:, None, None] * across
    image = sf.render_mesh(vertices.expand(len(moved), -1, -1), faces, moved, camera)[:, 0]
    place = (torch.arange(side).double() - (side - 1) / 2) * pitch
    weight = torch.exp(-((place[None, :] - 25) ** 2 + (place[:, None] + 15) ** 2) / (2 * 60.0**2))
    return (TRANSFERS[transfer](image) * weight).sum((1, 2)) * (pitch * DEPTH / SDD) ** 2


def derivative(
    mesh: tuple[torch.Tensor, torch.Tensor], camera_from_world: torch.Tensor, side: int, transfer: str = "L"
) -> tuple[torch.Tensor, torch.Tensor]:
    """F and dF/dshift of each pose."""
    shift = torch.zeros(len(camera_from_world), dtype=torch.float64, requires_grad=True)
    value = functional(mesh, camera_from_world, shift, side, transfer)
    return value.detach(), torch.autograd.grad(value.sum(), shift)[0]


def against_differences(mesh, side: int, count: int = 40) -> np.ndarray:
    """Median and largest |quotient - derivative| over the typical |derivative|, for each of `STEPS`."""
    places = poses(count, seed=side)
    _, slope = derivative(mesh, places, side)
    rows = []
    for h in STEPS:
        step = torch.full((count,), float(h), dtype=torch.float64)
        quotient = (functional(mesh, places, step, side) - functional(mesh, places, -step, side)) / (2 * h)
        error = (quotient - slope).abs() / slope.abs().median()
        rows.append([float(error.median()), float(error.max())])
    return np.array(rows)


def noise(mesh, transfer: str = "L", count: int = 64) -> np.ndarray:
    """Scatter of F and of dF/dshift about their values on the finest grid, relative, for each of `PIXELS`."""
    places = poses(count, seed=1)
    finest = [x.numpy() for x in derivative(mesh, places, 4 * PIXELS[-1], transfer)]
    rows = []
    for side in PIXELS:
        found = [x.numpy() for x in derivative(mesh, places, side, transfer)]
        rows.append(
            [np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)) for a, b in zip(found, finest, strict=True)]
        )
    return np.array(rows)


def rim(mesh, side: int = 256, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the ball's rim (mm at the ball) and slope |dL/dshift| of pixels on the middle row."""
    vertices, faces = mesh
    pitch = FIELD / side
    distance, slope = [], []
    for n, place in enumerate(poses(count, seed=2)):
        place[:3, 3] = torch.tensor([pitch * n / count, 0.0, DEPTH], dtype=torch.float64)
        camera = sf.Camera(SDD, pitch, pitch, 0.0, 0.0, 1, side)
        # the row as a function of the shift: one forward derivative, pixel by pixel, by a small difference
        rows = []
        for h in (1e-6, -1e-6):
            moved = place.clone()
            moved[0, 3] += h
            rows.append(sf.render_mesh(vertices[None], faces, moved[None], camera)[0, 0, 0])
        slope.append(((rows[0] - rows[1]) / 2e-6).abs().numpy())
        u = (np.arange(side) - (side - 1) / 2) * pitch / SDD
        centre = float(place[0, 3])
        miss = np.abs(centre - u * DEPTH) / np.sqrt(1 + u * u)  # of the ray, from the ball's centre
        distance.append(RADIUS - miss)
    distance, slope = np.concatenate(distance), np.concatenate(slope)
    inside = (distance > 0) & (slope > 0)
    return distance[inside], slope[inside]


def draw(path: Path, differences: dict, scatter: dict, rims: dict) -> None:
    """Three panels, one for each question."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    for ink, (name, rows) in zip(INK, differences.items(), strict=False):
        axes[0].loglog(STEPS, rows[:, 0], color=ink, label=f"{name}, median")
        axes[0].loglog(STEPS, rows[:, 1], color=ink, ls=":", label=f"{name}, largest of 40")
    axes[0].axhline(5e-3, color=INK[3], lw=0.8)
    axes[0].set(xlabel="step h, mm", ylabel="|quotient - derivative| / typical derivative",
                title="Central differences near the derivative")  # fmt: skip
    axes[0].legend(fontsize=7)
    size = FIELD / np.array(PIXELS) * DEPTH / SDD
    for ink, (name, rows) in zip(INK, scatter.items(), strict=False):
        axes[1].loglog(size, rows[:, 1], "o-", color=ink, label=f"derivative, {name}")
        axes[1].loglog(size, rows[:, 0], "s--", color=ink, label=f"F, {name}")
    axes[1].set(
        xlabel="pixel, mm at the ball", ylabel="scatter, relative", title="What sampling by pixels costs"
    )
    axes[1].legend(fontsize=7)
    for ink, (name, (distance, slope)) in zip(INK, rims.items(), strict=False):
        axes[2].loglog(distance, slope, ".", ms=2, color=ink, label=name)
    line = np.logspace(-3, np.log10(RADIUS) - 1e-3, 200)
    smooth = 2 * (RADIUS - line) / np.sqrt(line * (2 * RADIUS - line))
    axes[2].loglog(line, smooth, color="black", lw=1, label="smooth ball, ~ sqrt(2 R / s)")
    axes[2].set(xlabel="distance s inside the silhouette, mm", ylabel="|dL / dx| of a pixel",
                title="Slopes of pixels near the silhouette", xlim=(1e-3, 90), ylim=(0.1, 1e3))  # fmt: skip
    axes[2].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"drawn: {path}")


def exponent(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of log y on log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main(output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("docs/gradients.png")) -> None:
    """Measure and draw.

    Args:
        output: the figure
    """
    coarse, fine = ball(3), ball(5)
    meshes = {f"{len(mesh[1]):,} faces": mesh for mesh in (coarse, fine)}
    name = list(meshes)[1]
    differences = {f"{side} px": against_differences(fine, side) for side in (64, 256)}
    print(f"|quotient - derivative|, relative, {name}: step in mm, then median and largest")
    for n, h in enumerate(STEPS):
        cells = [f"{k}: {rows[n, 0]:.1e} {rows[n, 1]:.1e}" for k, rows in differences.items()]
        print(f"  {h:8.1e}   " + "   ".join(cells))
    scatter = {k: noise(mesh) for k, mesh in meshes.items()}
    size = FIELD / np.array(PIXELS) * DEPTH / SDD
    for k, rows in scatter.items():
        print(f"scatter of F and of its derivative, relative, {k}:")
        for p, (value, slope) in zip(size, rows, strict=True):
            print(f"  pixel {p:6.2f} mm at the ball   F {value:.1e}   derivative {slope:.1e}")
        print(f"  grows with pixel^{exponent(size, rows[:, 0]):.2f} and ^{exponent(size, rows[:, 1]):.2f}")
    print(f"scatter of the derivative, relative, for pixels of {', '.join(f'{p:.1f}' for p in size)} mm:")
    for transfer in TRANSFERS:
        slopes = noise(fine, transfer)[:, 1]
        print(
            f"  {transfer:24}" + " ".join(f"{x:.1e}" for x in slopes), f" pixel^{exponent(size, slopes):.2f}"
        )
    draw(output, differences, scatter, {k: rim(mesh) for k, mesh in meshes.items()})


if __name__ == "__main__":
    tyro.cli(main)
