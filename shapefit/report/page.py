"""The frame of every report: one self-contained HTML file, and the small pieces that pages are made of."""

import base64
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from plotly.offline import get_plotlyjs

from shapefit.io.atomic import write_text

# A browser refuses such a page any address, even if a script asked for one.
OFFLINE = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data: blob:; '
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)


def write_page(
    path: str | Path,
    title: str,
    kind: str,
    body: str,
    data: dict,
    scripts: Sequence[str],
    styles: Sequence[str] = (),
    plotly: bool = True,
) -> None:
    """Write a page with everything that it needs inside: styles, plotly.js, data and scripts by file name.

    `kind` says in a few words what the page is; `body` is HTML; `data` is `shapefit.data` to the scripts.
    A page without `plotly` is some 4.7 MB smaller.
    """
    look = "\n".join(asset(name) for name in ("page.css", *styles))
    library = f"<script>{get_plotlyjs()}</script>" if plotly else ""
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    code = "\n".join(f"<script>\n{asset(name)}\n</script>" for name in ("page.js", *scripts))
    write_text(
        path,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{"" if plotly else OFFLINE}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{look}
</style>
</head>
<body>
<header>
<div class="kind">{escape(kind)}</div>
<h1>{escape(title)}</h1>
<noscript>The pictures in 3D and the curves need JavaScript; the figures below do not.</noscript>
</header>
{body}
<script type="application/json" id="data">{text}</script>
{library}
{code}
</body>
</html>
""",
    )


def asset(name: str) -> str:
    """Text of a file that lies beside this module."""
    return files("shapefit.report").joinpath(name).read_text(encoding="utf-8")


def escape(value: object) -> str:
    return html.escape(str(value), quote=True)


def readable(name: str) -> str:
    """ "hip_left" as "hip left"."""
    return name.replace("_", " ")


def number(value: float | None, digits: int = 2) -> str:
    """A number for the eye; a dash where there is none."""
    if value is None:
        return "&ndash;"
    text = f"{value:.{digits}f}"
    return text.replace("-", "&minus;", 1) if float(text) != 0 else text.lstrip("-")


def facts(items: Sequence[tuple[str, str, str]]) -> str:
    """A row of key figures: (name, value, unit)."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value} <small>{escape(unit)}</small></dd></div>"
        for name, value, unit in items
    )
    return f'<dl class="facts">{cells}</dl>'


def verdict(good: bool, statement: str, reason: str) -> str:
    """The plain statement at the top of a page. Both texts are HTML."""
    return (
        f'<div class="verdict {"good" if good else "bad"}"><p>{statement}</p>'
        f"{f'<p>{reason}</p>' if reason else ''}</div>"
    )


def structure_switches(colours: dict[str, str], extra: str = "") -> str:
    """A tick box with its colour for each structure; it acts on every overlay and every scene of the page."""
    boxes = "".join(
        f'<label><input type="checkbox" checked data-structure="{escape(name)}">'
        f'<span class="swatch" style="background:{colour}"></span>{escape(readable(name))}</label>'
        for name, colour in colours.items()
    )
    return boxes + extra


def choice(name: str, options: Sequence[tuple[str, str]], pressed: str | None) -> str:
    """Buttons of which one is pressed: (value, text)."""
    buttons = "".join(
        f'<button type="button" value="{escape(value)}" aria-pressed="{str(value == pressed).lower()}">'
        f"{escape(text)}</button>"
        for value, text in options
    )
    return f'<span class="choice" data-choice="{escape(name)}">{buttons}</span>'


LOOK = choice(
    "look",
    [(d, d.capitalize()) for d in ("oblique", "front", "back", "left", "right", "above")],
    "oblique",
)


def section(title: str, body: str, note: str = "", name: str = "") -> str:
    head = f"<h2>{escape(title)}</h2>" + (f'<p class="note">{note}</p>' if note else "")
    return f"<section{f' id={chr(34)}{name}{chr(34)}' if name else ''}>{head}{body}</section>"


def base64_of(array: np.ndarray) -> str:
    """The bytes of an array, for the page's typed arrays (little-endian)."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")
