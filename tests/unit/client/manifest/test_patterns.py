import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import InvalidArgumentError
from mcr.manifest import PathPattern


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.bin", "a.bin", True),
        ("*.bin", "d/a.bin", False),
        ("**/*.bin", "a.bin", True),
        ("**/*.bin", "d/e/a.bin", True),
        ("**/**/a", "a", True),
        ("d/**", "d/e/f", True),
        ("d/**/f", "d/f", True),
        ("d/**/f", "d/e/g/f", True),
        ("d", "d/e/f", True),
        ("d/", "d/e", True),
        ("./d", "d/e", True),
        ("d", "de", False),
        ("d*", "de/f", True),
        ("?.bin", "a.bin", True),
        ("?", "/", False),
        ("a[0-2]", "a1", True),
        ("a[0-2]", "a3", False),
        ("a[!0-2]", "a3", True),
        ("a[!0-2]b", "a/b", False),
        ("a[]x]", "a]", True),
        ("a[z-a]", "az", False),
        ("a[!z-a]", "az", True),
        ("a[!]", "a[!]", True),
        ("a[", "a[", True),
        ("w[1].bin", "w[1].bin", True),
        ("w[1].bin", "w1.bin", True),
        ("*", ".hidden", True),
        ("a.b", "axb", False),
        ("a\n*", "a\nb", True),
        ("a**", "a/b/c", True),
    ],
)
def test_patterns_mean_what_the_manual_says(pattern: str, path: str, *, fits: bool) -> None:
    assert PathPattern(pattern).fits(path) is fits


@pytest.mark.parametrize("pattern", ["", "/", "/etc/*", "./", "x" * 5000])
def test_patterns_over_no_relative_path_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgumentError):
        PathPattern(pattern)


@given(st.text("ab*?[]!-/.", min_size=1, max_size=8), st.text("ab/-.", min_size=1, max_size=8))
def test_any_text_is_a_pattern_or_is_refused_and_fits_itself(pattern: str, path: str) -> None:
    try:
        compiled = PathPattern(pattern)
    except InvalidArgumentError:
        return
    compiled.fits(path)
    assert compiled.fits(pattern.removeprefix("./").rstrip("/"))
