"""The picture of a change as a web page or as a bitmap: bytes out, no file, no network.

Both draw the same marks (`mcr.tensors.picture`). The page is one file without external resources, follows the
reader's light or dark theme, and carries all figures in a table under the picture.
"""

import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcr.errors import MissingExtraError
from mcr.tensors.picture import (
    Anchor,
    Box,
    Dot,
    Ink,
    Mark,
    Picture,
    Text,
    draw,
    natural_key,
    note_of,
    number_text,
    share_text,
)
from mcr.tensors.statistics import TensorChange

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

# Beyond this the table weighs more than anybody reads; `mcr diff --tensors --json` has every row.
TABLE_ROWS_MAX = 2000
# Two device pixels per unit keep 11-pixel text legible on the screens of today.
PNG_SCALE = 2
# 140 layer rows make 3,100 units; anything much larger would be a mistake of the layout, not a picture.
PNG_HEIGHT_MAX = 12_000

# Blue from pale to deep, after ColorBrewer's YlGnBu, ends darkened until they stand out from the paper.
LIGHT = {
    Ink.PAPER: "#ffffff",
    Ink.TEXT: "#1f2328",
    Ink.FAINT: "#656d76",
    Ink.GRID: "#d8dee4",
    Ink.STRIPE: "#f6f8fa",
    Ink.SHARE_0: "#bfe3b4",
    Ink.SHARE_1: "#73c8bd",
    Ink.SHARE_2: "#3aa3c4",
    Ink.SHARE_3: "#2667ad",
    Ink.SHARE_4: "#1b2a7a",
    Ink.ADDED: "#1a7f37",
    Ink.REMOVED: "#cf222e",
    Ink.WARNING: "#9a5b00",
}
# On dark paper the order of brightness turns round, so that "more" stays what stands out.
DARK = {
    Ink.PAPER: "#0d1117",
    Ink.TEXT: "#e6edf3",
    Ink.FAINT: "#9198a1",
    Ink.GRID: "#30363d",
    Ink.STRIPE: "#151b23",
    Ink.SHARE_0: "#2b4a75",
    Ink.SHARE_1: "#2a74a0",
    Ink.SHARE_2: "#35a3b5",
    Ink.SHARE_3: "#79d0a4",
    Ink.SHARE_4: "#e8f59b",
    Ink.ADDED: "#3fb950",
    Ink.REMOVED: "#ff7b72",
    Ink.WARNING: "#e3a33b",
}


def render_html(changes: Sequence[TensorChange], title: str) -> str:
    """Return a self-contained page that shows `changes`.

    Args:
        changes: one entry per tensor, in any order.
        title: names the two versions; any text.
    """
    picture = draw(changes, title)
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{_style()}</style></head><body>",
            _svg(picture, title),
            _table(changes),
            "</body></html>",
            "",
        )
    )


def render_png(changes: Sequence[TensorChange], title: str) -> bytes:
    """Return a PNG that shows `changes`, in the light theme.

    Args:
        changes: one entry per tensor, in any order.
        title: names the two versions; characters that the built-in font lacks are shown as `?`.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError(what="drawing a PNG", extra="plot") from error
    picture = draw(changes, title)
    assert picture.height <= PNG_HEIGHT_MAX, picture.height
    size = (round(picture.width * PNG_SCALE), round(picture.height * PNG_SCALE))
    image = Image.new("RGB", size, LIGHT[Ink.PAPER])
    canvas = ImageDraw.Draw(image)
    fonts: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}
    for mark in picture.marks:
        _paint(canvas, mark, fonts)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _paint(
    canvas: "ImageDraw.ImageDraw",
    mark: Mark,
    fonts: "dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont]",
) -> None:
    colour = LIGHT[mark.ink]
    match mark:
        case Box(x, y, width, height):
            right, bottom = (x + width) * PNG_SCALE - 1, (y + height) * PNG_SCALE - 1
            canvas.rectangle(
                (round(x * PNG_SCALE), round(y * PNG_SCALE), round(right), round(bottom)), colour
            )
        case Dot(x, y, radius):
            reach = radius * PNG_SCALE
            bounds = (
                x * PNG_SCALE - reach,
                y * PNG_SCALE - reach,
                x * PNG_SCALE + reach,
                y * PNG_SCALE + reach,
            )
            canvas.ellipse(bounds, colour, LIGHT[Ink.PAPER], width=1)
        case Text():
            _paint_text(canvas, mark, colour, fonts)


def _paint_text(
    canvas: "ImageDraw.ImageDraw",
    mark: Text,
    colour: str,
    fonts: "dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont]",
) -> None:
    from PIL import ImageFont

    if mark.size not in fonts:
        fonts[mark.size] = ImageFont.load_default(mark.size * PNG_SCALE)
    # The font inside Pillow covers Latin only; an honest mark is better than an empty box.
    text = "".join(
        character if character.isascii() and character.isprintable() else "?" for character in mark.text
    )
    anchor = {Anchor.START: "ls", Anchor.MIDDLE: "ms", Anchor.END: "rs"}[mark.anchor]
    place = (mark.x * PNG_SCALE, mark.y * PNG_SCALE)
    weight = 0.6 if mark.bold else 0
    canvas.text(place, text, colour, fonts[mark.size], anchor, stroke_width=weight)


def _style() -> str:
    light = "".join(f"--{ink.value}:{colour};" for ink, colour in LIGHT.items())
    dark = "".join(f"--{ink.value}:{colour};" for ink, colour in DARK.items())
    inks = "".join(f".{ink.value}{{fill:var(--{ink.value})}}" for ink in Ink)
    words = "".join(f"td.{ink.value}{{color:var(--{ink.value})}}" for ink in Ink)
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        "body{margin:0;background:var(--paper);color:var(--text);font:13px/1.45 system-ui,sans-serif}"
        "svg{display:block;max-width:1120px;width:100%;height:auto;margin:0 auto}"
        "svg text{font-family:system-ui,sans-serif;white-space:pre}"
        "circle{stroke:var(--paper);stroke-width:.8}"
        f"{inks}{words}"
        "details{max-width:1072px;margin:0 auto;padding:0 24px 32px}summary{cursor:pointer;padding:8px 0}"
        "div{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
        "th,td{padding:3px 10px 3px 0;text-align:right;white-space:nowrap}"
        "th,td{border-bottom:1px solid var(--grid)}"
        "th:first-child,td:first-child,th:last-child,td:last-child{text-align:left}"
    )


def _svg(picture: Picture, title: str) -> str:
    size = f"{picture.width:g} {picture.height:g}"
    marks = "\n".join(_svg_mark(mark) for mark in picture.marks)
    label = html.escape(f"Change of every tensor: {title}")
    return f'<svg viewBox="0 0 {size}" role="img" aria-label="{label}">\n{marks}\n</svg>'


def _svg_mark(mark: Mark) -> str:
    hint = f"<title>{html.escape(mark.hint)}</title>" if mark.hint else ""
    match mark:
        case Box(x, y, width, height, ink):
            shape = f'x="{x:g}" y="{y:g}" width="{width:.2f}" height="{height:g}"'
            return f'<rect class="{ink.value}" {shape}>{hint}</rect>'
        case Dot(x, y, radius, ink):
            return f'<circle class="{ink.value}" cx="{x:.2f}" cy="{y:g}" r="{radius:g}">{hint}</circle>'
        case Text():
            weight = ' font-weight="600"' if mark.bold else ""
            place = (
                f'x="{mark.x:.2f}" y="{mark.y:g}" font-size="{mark.size}" text-anchor="{mark.anchor.value}"'
            )
            return f'<text class="{mark.ink.value}" {place}{weight}>{hint}{html.escape(mark.text)}</text>'


def _table(changes: Sequence[TensorChange]) -> str:
    ordered = sorted(changes, key=lambda change: (natural_key(change.name), change.name))
    rows = "\n".join(_table_row(change) for change in ordered[:TABLE_ROWS_MAX])
    left_out = len(ordered) - TABLE_ROWS_MAX
    more = f"<p>... and {left_out} more</p>" if left_out > 0 else ""
    head = "".join(
        f"<th>{word}</th>"
        for word in ("tensor", "changed", "relative change", "norm of change", "largest", "cosine", "")
    )
    return (
        f"<details><summary>All figures</summary><div><table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table></div>{more}</details>"
    )


def _table_row(change: TensorChange) -> str:
    note, ink = note_of(change)
    cosine = "-" if change.cosine is None else f"{change.cosine:.6f}"
    cells = (
        html.escape(change.name),
        share_text(change.changed_share),
        number_text(change.relative_change),
        number_text(change.norm_of_change),
        number_text(change.max_abs_change),
        cosine,
    )
    columns = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr>{columns}<td class="{ink.value}">{html.escape(note)}</td></tr>'
