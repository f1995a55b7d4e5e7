"""Laws of the picture of a change."""

import io
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from mcr.errors import MissingExtraError
from mcr.tensors import picture, plot
from mcr.tensors.picture import Box, Dot, Ink, Picture, Text
from mcr.tensors.statistics import TensorChange, added, removed, reshaped, unchanged


def changed(name: str, relative_change: float, share: float = 0.2, *, non_finite_b: int = 0) -> TensorChange:
    return TensorChange(
        name,
        "BF16",
        "BF16",
        (4, 8),
        (4, 8),
        share,
        norm_a=10.0,
        norm_b=10.0,
        norm_of_change=10.0 * relative_change,
        relative_change=relative_change,
        cosine=0.999,
        max_abs_change=relative_change,
        non_finite_b=non_finite_b,
    )


def model(layers: int) -> list[TensorChange]:
    return [
        changed(f"model.layers.{layer}.{part}.weight", 1e-4 * (layer + 1))
        for layer in range(layers)
        for part in ("attention", "mlp", "norm")
    ]


def texts(drawn: Picture) -> list[str]:
    return [mark.text.strip() for mark in drawn.marks if isinstance(mark, Text)]


def bars(drawn: Picture) -> list[Box]:
    return [mark for mark in drawn.marks if isinstance(mark, Box) and mark.height == picture.BAR_HEIGHT]


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes and text."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_few_tensors_get_a_row_each_under_their_layer() -> None:
    # when
    drawn = picture.draw([*model(3), changed("lm_head.weight", 0.1)], "v1 -> v2")
    # then
    words = texts(drawn)
    assert words.count("mlp.weight") == 3
    assert "model.layers.2" in words
    assert "lm_head.weight" in words
    assert len(bars(drawn)) == 10


def test_many_tensors_get_a_row_per_layer_with_a_dot_each() -> None:
    # when
    drawn = picture.draw(model(100), "v1 -> v2")
    # then
    assert len(bars(drawn)) == 100
    assert sum(isinstance(mark, Dot) for mark in drawn.marks) == 300
    assert "attention.weight" not in texts(drawn)


def test_more_layers_than_fit_keep_those_that_changed_most_in_their_order() -> None:
    # given
    layers = picture.LAYER_ROWS_MAX + 10
    quiet = added("zero.weight", dtype="F32", shape=(1,))
    # when
    drawn = picture.draw([*model(layers), quiet], "v1 -> v2")
    # then
    words = [text for text in texts(drawn) if text.startswith("model.layers.")]
    assert words == [f"model.layers.{layer}" for layer in range(11, layers)]
    assert "zero.weight" in texts(drawn)
    assert "... and 11 more layers that changed less" in texts(drawn)


def test_a_larger_change_has_a_longer_bar() -> None:
    drawn = picture.draw([changed(f"t{power}", 10.0**-power) for power in range(5)], "v1 -> v2")
    widths = [bar.width for bar in bars(drawn)]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 5


def test_a_larger_changed_share_has_another_colour() -> None:
    shares = (0.001, 0.05, 0.2, 0.7, 1.0)
    drawn = picture.draw([changed(f"t.{n}.w", 0.1, share) for n, share in enumerate(shares)], "v1 -> v2")
    assert [bar.ink for bar in bars(drawn)] == list(picture.SHARE_INKS)


def test_what_has_no_length_is_flagged_and_named() -> None:
    # given
    changes = [
        added("a", dtype="F32", shape=(16, 4)),
        removed("b", dtype="F32", shape=()),
        reshaped("c", dtype_a="BF16", dtype_b="BF16", shape_a=(100, 8), shape_b=(113, 8)),
        reshaped("d", dtype_a="F32", dtype_b="Q4_K", shape_a=(8,), shape_b=(8,)),
        TensorChange("e", "Q4_K", "Q4_K", (8,), (8,), 0.125),
        TensorChange("f", "F32", "F32", (8,), (8,), 1.0, norm_a=0.0, norm_b=1.0, norm_of_change=1.0),
        unchanged("g", dtype="F32", shape=(8,)),
    ]
    # when
    drawn = picture.draw(changes, "v1 -> v2")
    # then
    for words in (
        "added F32 16x4",
        "removed F32 scalar",
        "BF16 100x8 -> 113x8",
        "F32 8 -> Q4_K 8",
        "Q4_K as bytes, 12 % changed",
        "from all zero, 100 % changed",
        "unchanged",
        "7 tensors: 1 unchanged, 2 changed, 1 added, 1 removed, 2 reshaped",
    ):
        assert words in texts(drawn)
    inks = [bar.ink for bar in bars(drawn)]
    assert inks == [Ink.ADDED, Ink.REMOVED, Ink.WARNING, Ink.WARNING, Ink.SHARE_2, Ink.SHARE_4]


def test_a_nan_is_seen_in_the_head_and_in_its_row() -> None:
    # given
    sick = [changed("sick.weight", 0.5, non_finite_b=3), changed("well.weight", 0.5)]
    # when
    few = texts(picture.draw(sick, "v1 -> v2"))
    many = texts(picture.draw([*model(30), changed("model.layers.3.sick", 0.1, non_finite_b=3)], "v1 -> v2"))
    # then
    assert "0 -> 3 NaN or inf, 0.5, 20 % changed" in few
    assert "3 elements are NaN or infinite after the change" in few
    assert any(text.startswith("3 NaN or inf, ") for text in many)


def test_a_change_of_type_is_named_even_where_all_values_stayed() -> None:
    cast = TensorChange("t", "F32", "F64", (1,), (1,), 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0)
    assert picture.note_of(cast) == ("F32 -> F64, 0, 0 % changed", Ink.WARNING)


def test_a_nan_that_was_there_before_is_named_in_an_unchanged_tensor() -> None:
    same = TensorChange("t", "F32", "F32", (2,), (2,), 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1, 1)
    assert picture.note_of(same) == ("1 -> 1 NaN or inf, unchanged", Ink.WARNING)


def test_a_layer_says_what_came_and_went() -> None:
    # given
    changes = [
        *model(25),
        added("model.layers.3.lora_a", dtype="F32", shape=(1,)),
        added("model.layers.99.a", dtype="F32", shape=(1,)),
        added("model.layers.99.b", dtype="F32", shape=(1,)),
        removed("old.1.a", dtype="F32", shape=(1,)),
        removed("old.1.b", dtype="F32", shape=(1,)),
        unchanged("still.1.a", dtype="F32", shape=(1,)),
        unchanged("still.1.b", dtype="F32", shape=(0,)),
    ]
    # when
    words = texts(picture.draw(changes, "v1 -> v2"))
    # then
    assert "1 added, 0.0004, 20 % changed" in words
    assert "2 added" in words
    assert "2 removed" in words
    assert "unchanged" in words


def test_unchanged_tensors_do_not_dilute_the_change_of_their_layer() -> None:
    changes = [changed("l.0.a", 0.25), unchanged("l.0.b", dtype="F32", shape=(1000,))]
    assert picture.relative_change_of(changes) == 0.25
    assert picture.relative_change_of(changes[1:]) is None
    assert picture.changed_share_of(changes) == pytest.approx(0.2 * 32 / 1032)
    assert picture.changed_share_of([]) == 0


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.11.mlp.up_proj.weight", "model.layers.11"),
        ("transformer/h/3/attn/w", "transformer/h/3"),
        ("blk.0.attn_q.weight", "blk.0"),
        ("lm_head.weight", "lm_head"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("weight", "weight"),
        ("layer.7", "layer"),
        ("", ""),
    ],
)
def test_the_layer_of_a_tensor_ends_at_its_first_number(name: str, layer: str) -> None:
    assert picture.layer_name(name) == layer


def test_layers_stand_in_natural_order_whatever_the_order_of_the_changes() -> None:
    changes = model(12)
    names = [layer.name for layer in picture.layers_of(reversed(changes))]
    assert names == [f"model.layers.{layer}" for layer in range(12)]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1e-9, "under 0.1 %"), (0.05, "5.0 %"), (0.123, "12 %"), (0.99999, "99.9 %"), (1, "100 %")],
)
def test_a_share_reads_as_nothing_or_all_only_when_it_is(share: float, text: str) -> None:
    assert picture.share_text(share) == text


@given(st.lists(st.floats(1e-300, 1e300), max_size=5))
def test_every_value_lies_on_the_axis(values: list[float]) -> None:
    axis = picture.axis_for(values)
    assert picture.DECADES_MIN <= axis.high - axis.low <= picture.DECADES_MAX
    for value in values:
        assert 0 <= axis.x(value) - picture.LABEL_X_END <= picture.AXIS_WIDTH


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_name_and_title_give_a_well_formed_page(name: str, title: str) -> None:
    page = Page(plot.render_html([changed(name, 0.1)], title))
    assert "All figures" in page.words


def test_markup_in_names_is_text_and_no_markup() -> None:
    page = plot.render_html([changed("<script>alert(1)</script>", 0.1)], "<b>&")
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


def test_the_page_loads_nothing_from_elsewhere_and_knows_both_themes() -> None:
    # when
    text = plot.render_html(model(100), "v1 -> v2")
    # then
    page = Page(text)
    assert not [pair for pair in page.attributes if pair[0] in ("src", "href", "xlink:href")]
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme:dark" in text
    assert set(plot.LIGHT) == set(plot.DARK) == set(Ink)


def test_the_table_is_bounded_and_says_what_it_leaves_out() -> None:
    text = plot.render_html(model(1000), "v1 -> v2")
    assert text.count("<tr>") == 1 + plot.TABLE_ROWS_MAX
    assert "... and 1000 more" in text


def test_a_tensor_without_figures_has_dashes_in_the_table() -> None:
    text = plot.render_html([added("t", dtype="F32", shape=(1,))], "v1 -> v2")
    assert '<td>-</td><td class="added">added F32 1</td>' in text


@pytest.mark.parametrize("layers", [0, 3, 100])
def test_the_bitmap_is_the_picture_at_twice_its_size(layers: int) -> None:
    # given
    changes = model(layers)
    # when
    data = plot.render_png(changes, "v1 → v2")
    # then
    drawn = picture.draw(changes, "v1 → v2")
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == "PNG"
        assert image.size == (round(drawn.width * 2), round(drawn.height * 2))
        pixels = image.convert("RGB")
        for bar in bars(drawn):
            at = (round(bar.x * 2) + 1, round(bar.y * 2) + 1)
            assert pixels.getpixel(at) == ImageColor.getrgb(plot.LIGHT[bar.ink])


def test_the_same_changes_give_the_same_bytes() -> None:
    changes = model(30)
    assert plot.render_png(changes, "t") == plot.render_png(changes[::-1], "t")
    assert plot.render_html(changes, "t") == plot.render_html(changes[::-1], "t")


def test_no_text_is_wider_than_the_paper() -> None:
    # given
    long = "model.layers.0." + "very_long_name." * 40 + "weight"
    # when
    drawn = picture.draw(
        [reshaped(long, dtype_a="F32", dtype_b="BF16", shape_a=(1,) * 30, shape_b=(2,))], long
    )
    # then
    for mark in drawn.marks:
        if isinstance(mark, Text):
            assert len(mark.text) <= picture.TITLE_CHARACTERS_MAX


def test_without_pillow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="drawing a PNG needs the extra 'plot'"):
        plot.render_png([], "v1 -> v2")
