"""What becomes of attenuation on its way to a picture: scatter, noise, blur, collimator, display, marks."""

import string

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from shapefit.settings import SimulateSettings

BODY = 0.5  # line integral from which a ray has met the body


def draw_picture(
    line: Float[np.ndarray, "H W"], settings: SimulateSettings, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "H W"], dict[str, float | bool | str]]:
    """An X-ray of line integrals (unitless) as some image system shows it, in [0, 1], and what was drawn.

    In order: scattered radiation, the detector's blur, quantum noise at an automatic exposure, the
    collimator's shadow, the display's window and curve, edge enhancement, polarity, burnt-in marks.
    """
    drawn: dict[str, float | bool | str] = {}
    through = np.exp(-line)
    drawn["scatter"] = scatter = rng.uniform(0.0, 0.5)
    # in proportion to what comes through nearby: an anti-scatter grid takes most of what comes from afar
    through = through + scatter / (1 - scatter) * np.exp(_smooth(-line, 0.07))
    drawn["blur_px"] = blur = rng.uniform(0.2, 1.1)
    through = gaussian_filter(through, blur)
    drawn["photons"] = photons = float(10 ** rng.uniform(2.3, 4.3))
    body = line > BODY if (line > BODY).mean() > 0.05 else np.ones_like(line, bool)
    level = max(float(np.median(through[body])), 1e-6)
    counts = np.maximum(rng.poisson(np.minimum(photons * through / level, 1e8)), 1) / photons
    if rng.random() < 0.5:  # neighbouring pixels' noise is alike after resampling
        counts = gaussian_filter(counts, rng.uniform(0.3, 0.8))
    shadow = np.ones(line.shape, bool)
    drawn["collimated"] = narrowed = bool(rng.random() < settings.collimation)
    if narrowed:
        shadow = _aperture(line.shape, rng)
    shown = _displayed(counts, body & shadow if (body & shadow).any() else body, rng)
    if rng.random() < 0.3:  # edge enhancement
        shown = shown + rng.uniform(0.2, 1.0) * (shown - gaussian_filter(shown, rng.uniform(1.0, 4.0)))
    shown = shown.clip(0, 1)
    drawn["bright"] = bright = bool(rng.random() < settings.bright)
    if bright:
        shown = 1 - shown
    if narrowed:
        shown = np.where(shadow, shown, rng.choice([0.0, 0.0, 1.0, rng.uniform()]))
    drawn["text"] = text = bool(rng.random() < settings.text)
    if text:
        shown = _marked(shown, rng)
    return shown.astype(np.float32), drawn


def tissue(shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "H W"]:
    """A smooth random field about 0 with structure at several scales: muscle, fat, bowel."""
    total = np.zeros(shape)
    for cells, size in ((4, 0.05), (10, 0.03), (32, 0.012)):
        total += rng.uniform(0, size) * _enlarged(rng.normal(size=(cells, cells)), shape)
    return total


def _enlarged(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    page = Image.fromarray(field.astype(np.float32))
    return np.asarray(page.resize(shape[::-1], Image.Resampling.BICUBIC), np.float64)


def _smooth(field: np.ndarray, width: float) -> np.ndarray:
    """The field smoothed over a share of its width, on a coarse grid, since it has no detail then."""
    cells = max(2, round(1 / width))
    page = Image.fromarray(field.astype(np.float32))
    return _enlarged(np.asarray(page.resize((cells, cells), Image.Resampling.BOX)), field.shape)


def _displayed(counts: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Window and curve of the display: by the exponent of a raw image, or on a logarithmic scale."""
    seen = counts[inside]
    if rng.random() < 0.5:
        gamma = rng.uniform(0.3, 1.0)
        return rng.uniform(0.3, 0.65) * (counts / np.median(seen)) ** gamma
    values = np.log(counts)
    low, high = np.percentile(values[inside], [rng.uniform(0, 4), rng.uniform(90, 100)])
    share = (values - low) / max(high - low, 1e-6)
    # air may be white, or beyond the window as grey as the body's brightest part
    most = rng.choice([1.0, 1.3, 2.0])
    return rng.uniform(0.0, 0.15) + rng.uniform(0.55, 0.95) * share.clip(0, most) ** rng.uniform(0.6, 1.6)


def _aperture(shape: tuple[int, int], rng: np.random.Generator) -> Bool[np.ndarray, "H W"]:
    """The field that blades or a round intensifier leave open; at least a third of the width."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    if rng.random() < 0.4:
        return rows**2 + columns**2 < rng.uniform(0.85, 1.2) ** 2
    angle = np.radians(rng.normal(0, 6))
    across, down = (
        columns * np.cos(angle) + rows * np.sin(angle),
        rows * np.cos(angle) - columns * np.sin(angle),
    )
    left, right, top, bottom = rng.uniform(0.5, 1.15, 4)
    return (across > -left) & (across < right) & (down > -top) & (down < bottom)


def _marked(shown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Letters, ball markers and lines, black or white."""
    size = len(shown)
    page = Image.fromarray((255 * shown).astype(np.uint8))
    pen = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(1, 5))):
        x, y = (float(v) for v in rng.uniform(0.02, 0.92, 2) * size)
        ink = int(rng.choice([0, 255, rng.integers(256)]))
        kind = rng.choice(["letters", "ball", "line"])
        if kind == "letters":
            letters = "".join(
                rng.choice(list(string.ascii_uppercase + string.digits + " .:"), rng.integers(1, 9))
            )
            pen.text(
                (x, y), letters, fill=ink, font=ImageFont.load_default(float(rng.uniform(0.05, 0.12) * size))
            )
        elif kind == "ball":
            radius = float(rng.uniform(0.005, 0.02) * size)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
        else:
            end = tuple(float(v) for v in rng.uniform(0, 1, 2) * size)
            pen.line((x, y, *end), fill=ink, width=1)
    return np.asarray(page, np.float64) / 255
