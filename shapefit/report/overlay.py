"""Outlines of the fitted bones over their X-ray: as SVG for pages, as PNG for folders."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from skimage.measure import find_contours
from torch import Tensor

from shapefit.io.atomic import atomic_path
from shapefit.report.colours import rgb, structure_colours
from shapefit.report.page import escape
from shapefit.view import View

SMOOTHING = 0.9  # px; rounds the stairs of a pixel outline, moves it by less than a quarter of a pixel
TRANSMISSION = 0.025  # 1/mm, attenuation of the drawn projection: 40 mm of bone let a third through


def outlines(
    inside: Shaped[np.ndarray, "H W"], height: int, width: int, closed: bool
) -> list[Float[np.ndarray, "N 2"]]:
    """Curves of (column, row) around the pixels inside, in pixels of a height x width image.

    A bone that leaves the image is closed along the image's border, to be filled, or its curve ends there,
    to be drawn: the border is no edge of a bone.
    """
    padded = np.pad(inside.astype(np.float64), 3, mode="constant" if closed else "edge")
    rows, columns = inside.shape
    pixels = np.array([width / columns, height / rows])
    found = []
    for curve in find_contours(gaussian_filter(padded, SMOOTHING, mode="nearest"), 0.5):
        curve = curve[:, ::-1] - 3
        if closed:
            pieces = [np.clip(curve, -0.5, [columns - 0.5, rows - 0.5])]
        else:
            within = np.all((curve > -0.5) & (curve < [columns - 0.5, rows - 0.5]), axis=1)
            pieces = np.split(curve, np.flatnonzero(np.diff(within)) + 1)
            pieces = [piece for piece, keep in zip(pieces, _first_of_each(within), strict=True) if keep]
        found += [(piece + 0.5) * pixels - 0.5 for piece in pieces if len(piece) > 3]
    return found


def picture(view: View) -> np.ndarray:
    """The X-ray as bytes (H, W), stretched to its valid pixels' percentiles; invalid ones are paler."""
    image, valid = view.image.detach().cpu().float().numpy(), view.valid.cpu().numpy()
    low, high = np.percentile(image[valid], [0.5, 99.5])
    grey = np.clip((np.nan_to_num(image) - low) / max(high - low, 1e-6), 0, 1)
    grey = np.where(valid, grey, 0.45 * grey + 0.5)
    return np.round(grey * 255).astype(np.uint8)


def projection(paths: Float[Tensor, "S H W"]) -> np.ndarray:
    """The fitted bones as an X-ray without anything around them, bytes (H, W), bone dark."""
    transmitted = np.exp(-TRANSMISSION * paths.detach().cpu().double().sum(0).numpy())
    return np.round((0.08 + 0.86 * transmitted) * 255).astype(np.uint8)


def png(grey: np.ndarray, scale: int = 1) -> bytes:
    """8-bit greyscale PNG."""
    image = Image.fromarray(grey, mode="L")
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def stack(view: View, paths: Float[Tensor, "S H W"] | None, colours: dict[str, str]) -> str:
    """HTML of one view: the X-ray, the projection of the fit over it, fills, outlines and the given mask.

    Without `paths`, where nothing was found, the X-ray alone.
    """
    xray = f'<img alt="X-ray {escape(view.name)}" src="{_data_url(picture(view))}">'
    if paths is None:
        return f'<div class="stack">{xray}</div>'
    height, width = view.camera.height, view.camera.width
    shadow, outline, given = {}, {}, {}
    for k, name in enumerate(colours):
        shadow[name] = _svg_path(outlines(_inside(paths, k), height, width, closed=True), "Z")
        outline[name] = _svg_path(outlines(_inside(paths, k), height, width, closed=False))
        if view.mask is not None:
            mask = (view.mask == k + 1).cpu().numpy()
            given[name] = _svg_path(outlines(mask, height, width, closed=False))
    groups = (
        _group("fill", shadow, "fill", colours)
        + f'<g class="outline">{_group("halo", outline)}{_group("line", outline, "stroke", colours)}</g>'
        + _group("given", given)
    )
    return (
        f'<div class="stack">{xray}'
        f'<img class="over" alt="projection of the fitted bones" src="{_data_url(projection(paths))}">'
        f'<svg viewBox="-0.5 -0.5 {width} {height}" preserveAspectRatio="none">{groups}</svg></div>'
    )


def write_overlay(
    path: str | Path,
    view: View,
    paths: Float[Tensor, "S H W"],
    names: Sequence[str],
    width: int = 1024,
) -> None:
    """The X-ray with the outlines of the fitted structures as an RGB PNG about `width` pixels wide.

    `paths` holds the length of each ray inside each structure, mm; `names` the structures in its order.
    """
    colours = structure_colours(names)
    scale = max(1, round(width / view.camera.width))
    fine = 3  # drawn larger, then averaged: smooth lines
    base = Image.open(io.BytesIO(png(picture(view), scale))).convert("RGB")
    layer = base.resize((base.width * fine, base.height * fine), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(layer, "RGBA")
    size = view.camera.height, view.camera.width
    curves = {name: outlines(_inside(paths, k), *size, closed=False) for k, name in enumerate(colours)}
    thickness = max(2.0, base.width / 420)
    for extra, opacity in ((1.6, 90), (0.0, 255)):  # a dark rim first, so that lines show on white bone too
        for name, drawn in curves.items():
            colour = rgb(colours[name]) if opacity == 255 else (0, 0, 0)
            for curve in drawn:
                points = [((x + 0.5) * scale * fine, (y + 0.5) * scale * fine) for x, y in curve]
                draw.line(
                    points, fill=(*colour, opacity), width=round((thickness + extra) * fine), joint="curve"
                )
    with atomic_path(path) as temporary:
        layer.resize(base.size, Image.Resampling.LANCZOS).save(temporary, "PNG", optimize=True)


def write_overlays(
    folder: str | Path,
    views: Sequence[View],
    paths: Sequence[Float[Tensor, "S H W"]],
    names: Sequence[str],
) -> list[Path]:
    """overlay_0.png, overlay_1.png ... in a folder, one per view; arguments as for `write_overlay`."""
    written = []
    for n, (view, of_view) in enumerate(zip(views, paths, strict=True)):
        written.append(Path(folder) / f"overlay_{n}.png")
        write_overlay(written[-1], view, of_view, names)
    return written


def _inside(paths: Tensor, structure: int) -> np.ndarray:
    return (paths[structure] > 0).detach().cpu().numpy()


def _first_of_each(flags: np.ndarray) -> np.ndarray:
    """The value of each run of equal flags."""
    return flags[np.r_[0, np.flatnonzero(np.diff(flags)) + 1]]


def _svg_path(curves: list[np.ndarray], end: str = "") -> str:
    return "".join("M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in curve) + end for curve in curves)


def _group(name: str, outline: dict[str, str], paint: str = "", colours: dict[str, str] | None = None) -> str:
    """One layer: a path per structure, with its colour, if any, as `paint` ("fill" or "stroke")."""
    drawn = ""
    for structure, d in outline.items():
        style = f' style="{paint}:{colours[structure]}"' if colours else ""
        drawn += f'<path data-of="{escape(structure)}" d="{d}"{style}/>' if d else ""
    return f'<g class="{name}">{drawn}</g>'


def _data_url(grey: np.ndarray) -> str:
    scale = max(1, round(768 / grey.shape[1]))
    return "data:image/png;base64," + base64.b64encode(png(grey, scale)).decode("ascii")
