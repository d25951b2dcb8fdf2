"""A registration as a moving picture: the bone's edges over the X-rays, pose by pose, and the loss."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from shapefit.report.register_pictures import overlay

WIDTH, ALONE = 340, 480  # px of a view beside others, and of a single one
MOST_VIEWS = 3
LARGEST = 3_000_000  # bytes
INK, SOFT, RULE = "#1C1C1E", "#62625F", "#E3E1DC"
_TOP, _FOOT, _GAP, _SIDE = 40, 84, 8, 10
_HOLD, _STEP, _END = 900, 140, 2500  # ms: the first frame, each step, the last


class Frame(NamedTuple):
    """One pose on the way."""

    parts: Sequence[Float[ndarray, "S H W"]]  # per view: line integrals of each part of the bone
    stage: str
    step: int | None  # None: the pose that the search was given
    loss: float | None


def animation(
    greys: Sequence[UInt8[ndarray, "H W"]],
    frames: Sequence[Frame],
    colours: Sequence[str],
    names: Sequence[str],
) -> bytes:
    """A GIF of at most 3 MB that shows up to three views side by side.

    `greys` are the X-rays in the size of the frames' parts, `names` the views'. Raises ValueError without
    frames.
    """
    if not frames:
        raise ValueError("an animation needs at least 1 frame, got none")
    drawn = [_drawn(frame, greys, frames, n, colours, names) for n, frame in enumerate(frames)]
    for shrink, levels in ((1.0, 128), (1.0, 64), (0.8, 64), (0.6, 48), (0.4, 32)):
        content = _gif(drawn, shrink, levels)
        if len(content) <= LARGEST:
            break
    return content


def chosen(count: int, most: int = 36) -> list[int]:
    """Which of `count` steps are shown: evenly, the first and the last among them."""
    return sorted({round(n) for n in np.linspace(0, count - 1, min(count, most))})


def _gif(drawn: Sequence[Image.Image], shrink: float, levels: int) -> bytes:
    size = tuple(round(n * shrink) for n in drawn[0].size)
    images = [image if shrink == 1.0 else image.resize(size, Image.Resampling.LANCZOS) for image in drawn]
    # one palette for all frames, so that nothing flickers
    sample = Image.new("RGB", (size[0], size[1] * 2))
    sample.paste(images[0], (0, 0))
    sample.paste(images[-1], (0, size[1]))
    palette = sample.quantize(levels, method=Image.Quantize.MEDIANCUT)
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [_STEP] * len(indexed)
    durations[0] = _HOLD
    durations[-1] = _END
    out = io.BytesIO()
    indexed[0].save(
        out, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True
    )  # fmt: skip
    return out.getvalue()


def _drawn(
    frame: Frame,
    greys: Sequence[ndarray],
    frames: Sequence[Frame],
    place: int,
    colours: Sequence[str],
    names: Sequence[str],
) -> Image.Image:
    shown = list(zip(greys, frame.parts, names, strict=False))[:MOST_VIEWS]
    height = max(grey.shape[0] for grey, _, _ in shown)
    width = sum(grey.shape[1] for grey, _, _ in shown) + _GAP * (len(shown) - 1) + 2 * _SIDE
    page = Image.new("RGB", (width, _TOP + height + _FOOT), "#FFFFFF")
    draw = ImageDraw.Draw(page)
    left = _SIDE
    for grey, parts, name in shown:
        page.paste(Image.fromarray(overlay(grey, parts, colours)), (left, _TOP))
        if len(shown) > 1:
            draw.text(
                (left + 8, _TOP + 5),
                name,
                font=_font(13),
                fill="#FFFFFF",
                stroke_width=1,
                stroke_fill="#000000",
            )
        left += grey.shape[1] + _GAP
    said = "start" if frame.step is None else f"{frame.stage} images, step {frame.step}"
    draw.text((_SIDE, _TOP / 2), said, font=_font(17), fill=INK, anchor="lm")
    if frame.loss is not None:
        draw.text((width - _SIDE, _TOP / 2), f"loss {frame.loss:.3f}", font=_font(17), fill=INK, anchor="rm")
    _curve(
        draw, frames, place, (_SIDE + 6, _TOP + height + 12, width - _SIDE - 6, _TOP + height + _FOOT - 34)
    )
    return page


def _curve(
    draw: ImageDraw.ImageDraw, frames: Sequence[Frame], place: int, box: tuple[int, int, int, int]
) -> None:
    """The loss along the way, with a dot where the frame is; stages are lines of their own."""
    known = [(n, frame.stage, frame.loss) for n, frame in enumerate(frames) if frame.loss is not None]
    if len(known) < 2:
        return
    low, high = min(loss for _, _, loss in known), max(loss for _, _, loss in known)
    left, top, right, bottom = box

    def at(n: int, loss: float) -> tuple[float, float]:
        return (
            left + n / max(1, len(frames) - 1) * (right - left),
            bottom - (loss - low) / max(high - low, 1e-9) * (bottom - top),
        )

    draw.line([(left, bottom + 6), (right, bottom + 6)], fill=RULE)
    for stage in dict.fromkeys(stage for _, stage, _ in known):
        points = [at(n, loss) for n, name, loss in known if name == stage]
        if len(points) > 1:
            draw.line(points, fill=SOFT, width=2, joint="curve")
        draw.text((points[0][0] - 4, bottom + 19), stage, font=_font(12), fill=SOFT, anchor="lm")
    loss = frames[place].loss
    if loss is not None:
        x, y = at(place, loss)
        draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=INK, outline="#FFFFFF")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
