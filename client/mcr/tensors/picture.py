"""What the picture of a change shows and where: a list of marks that a page or a bitmap only has to draw.

One row per tensor while they are few, one row per layer when they are many. A row's bar is the relative
change on a logarithmic axis, its colour the share of elements that changed. In a layer's row the dots on the
same axis are its tensors. Words at the right say what no bar can: added, removed, reshaped, not a number.

Lengths are in units of a CSS pixel; the origin is the upper left corner.
"""

import math
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from mcr.tensors.statistics import ChangeKind, TensorChange
from mcr.values import dataclass

# More rows than this no longer fit a screen or two, so layers are drawn instead of tensors.
TENSOR_ROWS_MAX = 60
# A model of 128 layers with its embeddings still fits; beyond it the picture is cut, and says so.
LAYER_ROWS_MAX = 140

WIDTH = 1120
MARGIN = 24
LABEL_WIDTH = 330
AXIS_WIDTH = 440
ROW_HEIGHT = 21
HEADING_HEIGHT = 27
BAR_HEIGHT = 13
DOT_RADIUS = 2.6
BAR_WIDTH_MIN = 2.0
# A change that has no length on the axis still has to catch the eye.
FLAG_WIDTH = 7

TITLE_SIZE = 19
TEXT_SIZE = 13
SMALL_SIZE = 12

LABEL_CHARACTERS_MAX = 42
NOTE_CHARACTERS_MAX = 46
TITLE_CHARACTERS_MAX = 90

# The axis spans whole decades: enough that a bar's length means something, few enough to tell rows apart.
DECADES_MIN = 3
DECADES_MAX = 8
TICKS_MAX = 9

# Bounds of the colour classes: fine-tuning changes a tenth to a quarter of the weights, a rewrite nearly all.
SHARE_BOUNDS = (0.01, 0.10, 0.50, 0.90)
SHARE_LABELS = ("under 1 %", "1 to 10 %", "10 to 50 %", "50 to 90 %", "over 90 %")


class Ink(StrEnum):
    """A role of colour; the renderer chooses the colour, light or dark."""

    PAPER = "paper"
    TEXT = "text"
    FAINT = "faint"
    GRID = "grid"
    STRIPE = "stripe"
    SHARE_0 = "share-0"
    SHARE_1 = "share-1"
    SHARE_2 = "share-2"
    SHARE_3 = "share-3"
    SHARE_4 = "share-4"
    ADDED = "added"
    REMOVED = "removed"
    WARNING = "warning"


SHARE_INKS = (Ink.SHARE_0, Ink.SHARE_1, Ink.SHARE_2, Ink.SHARE_3, Ink.SHARE_4)


class Anchor(StrEnum):
    """Which end of a text stands at its x."""

    START = "start"
    MIDDLE = "middle"
    END = "end"


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle; `hint` is shown when pointed at."""

    x: float
    y: float
    width: float
    height: float
    ink: Ink
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    """A filled circle around (x, y), outlined in paper so that neighbours stay apart."""

    x: float
    y: float
    radius: float
    ink: Ink
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text whose baseline is at y."""

    x: float
    y: float
    text: str
    ink: Ink = Ink.TEXT
    size: int = TEXT_SIZE
    anchor: Anchor = Anchor.START
    bold: bool = False
    hint: str = ""


Mark = Box | Dot | Text


@dataclass(frozen=True, slots=True)
class Picture:
    """Marks in drawing order, on paper of a size."""

    width: float
    height: float
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """Tensors that share a layer's prefix, in natural order of their names."""

    name: str
    changes: tuple[TensorChange, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis over whole decades, 10^low to 10^high."""

    low: int
    high: int

    def x(self, value: float) -> float:
        """Return where `value` (above 0) lies, clipped to the axis."""
        position = (math.log10(value) - self.low) / (self.high - self.low)
        return LABEL_X_END + AXIS_WIDTH * min(1.0, max(0.0, position))


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    hint: str
    value: float | None
    share: float
    dots: tuple[TensorChange, ...]
    note: str
    note_ink: Ink
    flag: Ink | None = None
    heading: bool = False


LABEL_X_END = MARGIN + LABEL_WIDTH
NOTE_X = LABEL_X_END + AXIS_WIDTH + 14


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key by which `layers.2` comes before `layers.10`."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def layer_name(tensor_name: str) -> str:
    """Return the layer a tensor belongs to: its name up to the first number, else without its last part.

    `model.layers.11.mlp.up_proj.weight` gives `model.layers.11`; `lm_head.weight` gives `lm_head`.
    """
    parts = re.split(r"([./])", tensor_name)
    for position, part in enumerate(parts[:-1]):
        if part.isascii() and part.isdecimal():
            return "".join(parts[: position + 1])
    return "".join(parts[:-2]) or tensor_name


def layers_of(changes: Iterable[TensorChange]) -> list[Layer]:
    """Group `changes` by layer, layers and tensors in natural order."""
    groups: dict[str, list[TensorChange]] = {}
    for change in sorted(changes, key=lambda change: (natural_key(change.name), change.name)):
        groups.setdefault(layer_name(change.name), []).append(change)
    return [Layer(name, tuple(groups[name])) for name in sorted(groups, key=natural_key)]


def relative_change_of(changes: Sequence[TensorChange]) -> float | None:
    """Return the relative change of those tensors that changed, taken as one vector; None without figures.

    Unchanged tensors are left out: their bytes were never read, so that their norms are unknown, and a layer
    of which one matrix moved should not look like one that hardly moved.
    """
    squares, squares_of_change = 0.0, 0.0
    for change in changes:
        if change.relative_change and change.norm_a and change.norm_of_change:
            squares += change.norm_a**2
            squares_of_change += change.norm_of_change**2
    return math.sqrt(squares_of_change / squares) if squares else None


def changed_share_of(changes: Sequence[TensorChange]) -> float:
    """Return the share of all their elements that changed, 0 to 1."""
    elements = sum(change.element_count for change in changes)
    if elements == 0:
        return 0.0
    return sum(change.changed_share * change.element_count for change in changes) / elements


def number_text(value: float | None) -> str:
    """Return `value` with two or three significant digits, short: `0.013`, `3.1e-06`, `-` for None."""
    if value is None:
        return "-"
    return f"{value:.2g}" if value < 10 else f"{value:.3g}"


def share_text(share: float) -> str:
    """Return a share in percent; never `0 %` or `100 %` for what is not exactly that."""
    if share == 0:
        return "0 %"
    if share < 0.001:
        return "under 0.1 %"
    if share == 1:
        return "100 %"
    return f"{min(share * 100, 99.9):.1f} %" if share < 0.1 or share > 0.99 else f"{share * 100:.0f} %"


def elided(text: str, characters_max: int) -> str:
    """Shorten `text` in its middle, where names of tensors say least."""
    if len(text) <= characters_max:
        return text
    kept = characters_max - 3
    return f"{text[: kept // 2]}...{text[len(text) - (kept - kept // 2) :]}"


def note_of(change: TensorChange) -> tuple[str, Ink]:
    """Return the words beside a tensor's row and their ink."""
    match change.kind:
        case ChangeKind.ADDED:
            return f"added {_form(change.dtype_b, change.shape_b)}", Ink.ADDED
        case ChangeKind.REMOVED:
            return f"removed {_form(change.dtype_a, change.shape_a)}", Ink.REMOVED
        case ChangeKind.RESHAPED:
            before, after = _form(change.dtype_a, change.shape_a), _form(change.dtype_b, change.shape_b)
            if change.dtype_a == change.dtype_b:
                after = _extents(change.shape_b)
            return f"{before} -> {after}", Ink.WARNING
        case ChangeKind.UNCHANGED | ChangeKind.CHANGED:
            return _note_of_pair(change)


def _note_of_pair(change: TensorChange) -> tuple[str, Ink]:
    words = []
    if change.non_finite_a or change.non_finite_b:
        words.append(f"{change.non_finite_a} -> {change.non_finite_b} NaN or inf")
    if change.dtype_a != change.dtype_b:
        words.append(f"{change.dtype_a} -> {change.dtype_b}")
    if change.kind is ChangeKind.UNCHANGED:
        return ", ".join([*words, "unchanged"]), Ink.WARNING if words else Ink.FAINT
    ink = Ink.WARNING if words else Ink.TEXT
    if change.relative_change is not None:
        words.append(number_text(change.relative_change))
    elif change.norm_a == 0:
        words.append("from all zero")
    else:
        words.append(f"{change.dtype_a} as bytes")
    return ", ".join([*words, f"{share_text(change.changed_share)} changed"]), ink


def _form(dtype: str | None, shape: tuple[int, ...] | None) -> str:
    return f"{dtype} {_extents(shape)}"


def _extents(shape: tuple[int, ...] | None) -> str:
    return "x".join(str(extent) for extent in shape) if shape else "scalar"


def axis_for(values: Iterable[float]) -> Axis:
    """Return the axis for `values`; zeros have no place on it."""
    logarithms = [math.log10(value) for value in values if value > 0]
    if not logarithms:
        return Axis(-DECADES_MIN, 0)
    # A bar starts at the left end, so the smallest value needs room to the right of it.
    low, high = math.floor(min(logarithms) - 0.1), math.ceil(max(logarithms))
    return Axis(max(min(low, high - DECADES_MIN), high - DECADES_MAX), high)


def share_ink(share: float) -> Ink:
    """Return the colour class of a changed share."""
    return SHARE_INKS[sum(share >= bound for bound in SHARE_BOUNDS)]


def draw(changes: Sequence[TensorChange], title: str) -> Picture:
    """Lay out the picture of `changes`, in any order; `title` names the two versions."""
    layers = layers_of(changes)
    by_layer = len(changes) > TENSOR_ROWS_MAX
    if by_layer:
        shown = _most_changed(layers)
        rows = [_layer_row(layer) for layer in shown]
    else:
        shown = layers
        rows = [row for layer in layers for row in _tensor_rows(layer)]
    axis = axis_for(change.relative_change or 0.0 for layer in shown for change in layer.changes)
    marks: list[Mark] = [*_head(changes, title), *_legend(by_layer=by_layer)]
    top = y = 128.0
    body: list[Mark] = []
    for position, row in enumerate(rows):
        height = HEADING_HEIGHT if row.heading else ROW_HEIGHT
        body += _row_marks(row, axis, y, height, striped=position % 2 == 1 and by_layer)
        y += height
    if len(shown) < len(layers):
        words = f"... and {len(layers) - len(shown)} more layers that changed less"
        body.append(Text(MARGIN, y + 15, words, Ink.FAINT))
        y += ROW_HEIGHT
    # Stripes lie under the grid, bars over it.
    stripes = [mark for mark in body if isinstance(mark, Box) and mark.ink is Ink.STRIPE]
    others = [mark for mark in body if not (isinstance(mark, Box) and mark.ink is Ink.STRIPE)]
    marks += [*stripes, *_grid(axis, top, y), *others]
    return Picture(WIDTH, y + MARGIN, tuple(marks))


def _most_changed(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers to draw, in their order: all, or those that changed most."""
    if len(layers) <= LAYER_ROWS_MAX:
        return list(layers)

    def rank(position: int) -> tuple[bool, float, float]:
        layer = layers[position]
        without_length = any(
            change.kind in _ANNOTATED or change.non_finite_b > 0 or _changed_without_figure(change)
            for change in layer.changes
        )
        value = relative_change_of(layer.changes) or 0.0
        return without_length, value, changed_share_of(layer.changes)

    chosen = sorted(range(len(layers)), key=rank, reverse=True)[:LAYER_ROWS_MAX]
    return [layers[position] for position in sorted(chosen)]


def summary(changes: Sequence[TensorChange]) -> str:
    """Return one line that counts what happened to the tensors."""
    counts = {kind: sum(change.kind is kind for change in changes) for kind in ChangeKind}
    words = ", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count)
    if not changes:
        return "no tensors"
    noun = "tensor" if len(changes) == 1 else "tensors"
    return f"{len(changes)} {noun}: {words}"


def _head(changes: Sequence[TensorChange], title: str) -> list[Mark]:
    non_finite_b = sum(change.non_finite_b for change in changes)
    marks: list[Mark] = [
        Text(MARGIN, 36, elided(title, TITLE_CHARACTERS_MAX), size=TITLE_SIZE, bold=True, hint=title),
        Text(MARGIN, 59, summary(changes), Ink.FAINT),
    ]
    if non_finite_b:
        words = f"{non_finite_b} elements are NaN or infinite after the change"
        marks.append(Text(WIDTH - MARGIN, 59, words, Ink.WARNING, anchor=Anchor.END, bold=True))
    return marks


def _legend(*, by_layer: bool) -> list[Mark]:
    what = "a layer's changed tensors (dots: each)" if by_layer else "the tensor"
    marks: list[Mark] = [
        Text(MARGIN, 88, "bar: |after - before| / |before| of " + what, Ink.FAINT, SMALL_SIZE),
        Text(694, 88, "colour: elements changed", Ink.FAINT, SMALL_SIZE, Anchor.END),
    ]
    for position, (ink, label) in enumerate(zip(SHARE_INKS, SHARE_LABELS, strict=True)):
        x = WIDTH - MARGIN - (len(SHARE_INKS) - position) * 78 + 4
        marks += [
            Box(x, 78, 74, 12, ink),
            Text(x + 37, 104, label, Ink.FAINT, SMALL_SIZE - 1, Anchor.MIDDLE),
        ]
    return marks


def _grid(axis: Axis, top: float, bottom: float) -> list[Mark]:
    marks: list[Mark] = []
    for exponent in range(axis.low, axis.high + 1):
        x = axis.x(10.0**exponent)
        label = f"{10**exponent:d}" if 0 <= exponent <= 3 else f"1e{exponent}"
        marks += [
            Box(x, top - 4, 1, bottom - top + 4, Ink.GRID),
            Text(x, top - 8, label, Ink.FAINT, SMALL_SIZE - 1, Anchor.MIDDLE),
        ]
    return marks


def _tensor_rows(layer: Layer) -> list[_Row]:
    if len(layer.changes) == 1:
        return [_tensor_row(layer.changes[0], layer.changes[0].name)]
    heading = _Row(layer.name, layer.name, None, 0.0, (), "", Ink.FAINT, heading=True)
    rows = [
        _tensor_row(change, "    " + change.name.removeprefix(layer.name).lstrip("./"))
        for change in layer.changes
    ]
    return [heading, *rows]


def _tensor_row(change: TensorChange, label: str) -> _Row:
    note, ink = note_of(change)
    flag = None
    if change.kind in _ANNOTATED:
        flag = ink
    elif _changed_without_figure(change):
        flag = share_ink(change.changed_share)
    return _Row(label, hint_of(change), change.relative_change, change.changed_share, (), note, ink, flag)


def _changed_without_figure(change: TensorChange) -> bool:
    return change.kind is ChangeKind.CHANGED and change.relative_change is None


def _layer_row(layer: Layer) -> _Row:
    if len(layer.changes) == 1:
        return _tensor_row(layer.changes[0], layer.changes[0].name)
    pairs = tuple(change for change in layer.changes if change.kind not in _ANNOTATED)
    counts = {kind: sum(change.kind is kind for change in layer.changes) for kind in ChangeKind}
    value, share = relative_change_of(pairs), changed_share_of(pairs)
    words = [f"{counts[kind]} {kind.value}" for kind in _ANNOTATED if counts[kind]]
    non_finite_b = sum(change.non_finite_b for change in layer.changes)
    if non_finite_b:
        words.append(f"{non_finite_b} NaN or inf")
    ink = Ink.WARNING if words else Ink.TEXT
    for kind, kind_ink in _WHOLE_LAYER:
        if counts[kind] == len(layer.changes):
            words, ink = [kind.value if kind is ChangeKind.UNCHANGED else words[0]], kind_ink
    if share:
        words += [number_text(value)] if value else []
        words.append(f"{share_text(share)} changed")
    flag = ink if words and not value and ink is not Ink.FAINT else None
    hint = "\n".join([layer.name, *(hint_of(change) for change in layer.changes)])
    return _Row(layer.name, hint, value, share, pairs, ", ".join(words), ink, flag)


_ANNOTATED = (ChangeKind.ADDED, ChangeKind.REMOVED, ChangeKind.RESHAPED)
_WHOLE_LAYER = (
    (ChangeKind.UNCHANGED, Ink.FAINT),
    (ChangeKind.ADDED, Ink.ADDED),
    (ChangeKind.REMOVED, Ink.REMOVED),
)


def hint_of(change: TensorChange) -> str:
    """Return one line with what is known of a tensor."""
    note, _ = note_of(change)
    shape = change.shape_a if change.shape_b is None else change.shape_b
    dtype = change.dtype_a if change.dtype_b is None else change.dtype_b
    return f"{change.name} ({_form(dtype, shape)}): {note}"


def _row_marks(row: _Row, axis: Axis, y: float, height: float, *, striped: bool) -> list[Mark]:
    baseline = y + height - 6
    if row.heading:
        return [Text(MARGIN, baseline, elided(row.label, LABEL_CHARACTERS_MAX), bold=True, hint=row.hint)]
    middle = y + height / 2
    marks: list[Mark] = []
    if striped:
        marks.append(Box(MARGIN - 8, y, WIDTH - 2 * MARGIN + 16, height, Ink.STRIPE))
    marks.append(Text(MARGIN, baseline, elided(row.label, LABEL_CHARACTERS_MAX), hint=row.hint))
    if row.value:
        width = max(BAR_WIDTH_MIN, axis.x(row.value) - LABEL_X_END)
        top = middle - BAR_HEIGHT / 2
        marks.append(Box(LABEL_X_END, top, width, BAR_HEIGHT, share_ink(row.share), row.hint))
    elif row.flag is not None:
        marks.append(Box(LABEL_X_END, middle - BAR_HEIGHT / 2, FLAG_WIDTH, BAR_HEIGHT, row.flag, row.hint))
    for change in row.dots:
        if change.relative_change:
            x = axis.x(change.relative_change)
            marks.append(Dot(x, middle, DOT_RADIUS, Ink.TEXT, hint_of(change)))
    note = elided(row.note, NOTE_CHARACTERS_MAX)
    marks.append(Text(NOTE_X, baseline, note, row.note_ink, SMALL_SIZE, hint=row.hint))
    return marks
