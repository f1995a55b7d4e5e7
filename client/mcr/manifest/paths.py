"""Which paths a version may hold. Checked when a manifest is built and again when one is read.

A manifest may come from anybody, and a checkout writes where its paths say. These rules are what keeps a
hostile one inside the destination, so they are decided here once, without looking at any file system.
"""

from mcr.errors import InvalidArgumentError, UnsafePathError
from mcr.model import PATH_BYTES_MAX

# Folders of our own beside a user's files: an embedded store, and the unfinished files of a checkout. A
# version never holds one, or checking it out could overwrite a store.
STORE_FOLDER = ".mcr"
PARTIAL_FOLDER = ".mcr-partial"
RESERVED_NAMES = frozenset((STORE_FOLDER, PARTIAL_FOLDER))

_SHOWN_CHARACTERS_MAX = 200


def check_path(path: str) -> str:
    """Return `path` if a version may hold it: relative, `/`-separated, each component a plain name.

    Control characters and backslashes are allowed (they are names on Linux), NUL is not.

    Raises:
        UnsafePathError: says which rule is broken.
    """
    if not path:
        raise UnsafePathError(path, "it is empty")
    _check_text(path)
    if path.startswith("/"):
        raise UnsafePathError(path, "it is absolute")
    for name in path.split("/"):
        if name in {"", ".", ".."}:
            raise UnsafePathError(path, f"it has an empty, '.' or '..' component ({name!r})")
        if name in RESERVED_NAMES:
            raise UnsafePathError(path, f"the name {name} is reserved")
    return path


def check_symlink(path: str, target: str) -> str:
    """Return `target` if a symlink at `path` (itself a safe path) cannot lead out of the version.

    A target is zero or more `..`, no more than `path` has folders above it, then plain names. A `..` *after*
    a name is refused even where it looks harmless: if that name is itself a link to a folder higher up, the
    kernel steps back from there, and two harmless links together leave the tree. Without it every link
    starts at a real folder of the version and only ever descends, so no chain of links can escape.

    Raises:
        UnsafePathError: says which rule is broken.
    """
    if not target:
        raise UnsafePathError(path, "its link target is empty")
    _check_text(target)
    if target.startswith("/"):
        raise UnsafePathError(path, f"it links to the absolute path {target[:_SHOWN_CHARACTERS_MAX]!r}")
    steps_left, descending = path.count("/"), False
    for name in target.split("/"):
        if name in {"", "."}:
            continue
        if name == "..":
            if descending:
                raise UnsafePathError(path, "its link target steps back ('..') after a name")
            steps_left -= 1
            if steps_left < 0:
                raise UnsafePathError(path, "its link target leaves the folder")
            continue
        if name in RESERVED_NAMES:
            raise UnsafePathError(path, f"its link target leads into {name}")
        descending = True
    return target


def _check_text(text: str) -> None:
    shown = text[:_SHOWN_CHARACTERS_MAX]
    try:
        length_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        shown = shown.encode(errors="backslashreplace").decode()
        raise UnsafePathError(shown, "it is not valid Unicode") from error
    if length_bytes > PATH_BYTES_MAX:
        raise UnsafePathError(shown, f"it has {length_bytes} bytes, at most {PATH_BYTES_MAX}")
    if "\0" in text:
        raise UnsafePathError(shown, "it has a NUL character")


class PathOrder:
    """Checks, path by path, that a listing ascends and that no entry lies inside another one.

    Order is by UTF-8 bytes, which is the order of code points, which is how Python compares str.
    """

    def __init__(self) -> None:
        self._previous = ""
        # Earlier paths that are a prefix (as text) of the latest one, shortest first. In byte order all paths
        # that begin with "a" stand together, but "a-b" comes between "a" and "a/b", so looking only at
        # the neighbour would miss the clash.
        self._prefixes: list[str] = []

    def accept(self, path: str) -> None:
        """Take the next path.

        Raises:
            InvalidArgumentError: it does not come after the one before, or lies inside an entry.
        """
        if path <= self._previous:
            raise InvalidArgumentError(
                "path", f"{path!r} comes after {self._previous!r}: out of order, or twice"
            )
        while self._prefixes and not path.startswith(self._prefixes[-1]):
            self._prefixes.pop()
        for prefix in self._prefixes:
            if path[len(prefix)] == "/":
                raise InvalidArgumentError("path", f"{path!r} lies inside {prefix!r}, which is not a folder")
        self._prefixes.append(path)
        self._previous = path
