import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import InvalidArgumentError, UnsafePathError
from mcr.manifest import PathOrder, check_path, check_symlink


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b/c",
        ".hidden",
        "..a",
        "a/...",
        "name with space",
        "tab\there",
        "back\\slash",
        "ü/é",
        "é",
        "x" * 4096,
    ],
)
def test_plain_relative_paths_are_kept_as_they_are(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "..",
        "../a",
        "a/../b",
        "a\0b",
        "\udcff",
        "x" * 4097,
        ".mcr",
        "a/.mcr/b",
        ".mcr-partial/lock",
    ],
)
def test_paths_that_could_leave_the_folder_or_hit_our_own_are_refused(path: str) -> None:
    with pytest.raises(UnsafePathError) as caught:
        check_path(path)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", "b"),
        ("a", "./b"),
        ("a", "b/c/"),
        ("d/a", "../b"),
        ("d/e/a", "../../x"),
        ("a", "."),
        ("d/a", ".."),
    ],
)
def test_links_that_stay_inside_are_kept(path: str, target: str) -> None:
    assert check_symlink(path, target) == target


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", ""),
        ("a", "/etc"),
        ("a", ".."),
        ("d/a", "../../x"),
        ("a", "b\0"),
        ("a", "\udcff"),
        ("a", ".mcr/chunks"),
        ("a", "x" * 4097),
        # Inside as text, outside on disk: "s" may be a link to the top, and then s/.. is above it.
        ("a/b/e", "s/../x"),
    ],
)
def test_links_that_could_leave_are_refused(path: str, target: str) -> None:
    with pytest.raises(UnsafePathError):
        check_symlink(path, target)


def accepted(paths: list[str]) -> bool:
    order = PathOrder()
    try:
        for path in paths:
            order.accept(path)
    except InvalidArgumentError:
        return False
    return True


def test_a_file_is_never_a_folder_of_another_even_when_names_come_between() -> None:
    assert accepted(["a", "a-b", "a.c", "ab/c", "b"])
    assert not accepted(["a", "a-b", "a.c", "a/b"])
    assert not accepted(["a", "a/b/c"])
    assert not accepted(["b", "a"])
    assert not accepted(["a", "a"])


@given(st.lists(st.text("ab-/0", min_size=1, max_size=5), max_size=8, unique=True))
def test_order_check_agrees_with_looking_at_all_pairs(paths: list[str]) -> None:
    paths = sorted(path.strip("/") or "x" for path in paths)
    clash = any(later.startswith(earlier + "/") for earlier in paths for later in paths)
    assert accepted(paths) == (not clash and len(set(paths)) == len(paths))


@given(st.text(max_size=20))
def test_whatever_text_comes_the_answer_is_the_path_or_a_typed_refusal(path: str) -> None:
    with contextlib.suppress(UnsafePathError):
        assert check_path(path) == path
