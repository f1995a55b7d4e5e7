"""Glob patterns over the paths of a version, as `--include` takes them."""

import re

from mcr.errors import InvalidArgumentError
from mcr.manifest.walks import is_under
from mcr.model import PATH_BYTES_MAX


class PathPattern:
    """One pattern: `*` and `?` stay inside one component, `**` crosses them, `[a-c]` and `[!a-c]` are sets.

    A pattern that fits a folder includes all below it. A path written out in full fits itself, whatever
    characters it has. Nothing is special about names that begin with a dot.
    """

    def __init__(self, text: str) -> None:
        """Parse a pattern.

        Raises:
            InvalidArgumentError: it is empty, too long, or absolute.
        """
        plain = text.removeprefix("./").rstrip("/")
        if not plain or len(plain) > PATH_BYTES_MAX or plain.startswith("/"):
            raise InvalidArgumentError("include", f"{text[:200]!r} is not a pattern over relative paths")
        self.text = text
        self._plain = plain
        self._expression = re.compile(_translate(plain) + "(?:/.*)?", re.DOTALL)

    def fits(self, path: str) -> bool:
        """Tell whether the pattern includes `path`."""
        return is_under(path, self._plain) or self._expression.fullmatch(path) is not None


def _translate(pattern: str) -> str:
    out: list[str] = []
    at = 0
    while at < len(pattern):
        rest = pattern[at:]
        if rest.startswith("**/"):
            # Zero or more whole components; repeats mean the same, and would make matching slow.
            if out[-1:] != ["(?:.*/)?"]:
                out.append("(?:.*/)?")
            at += 3
        elif rest.startswith("**"):
            out.append(".*")
            at += len(rest) - len(rest.lstrip("*"))
        elif rest.startswith("*"):
            out.append("[^/]*")
            at += 1
        elif rest.startswith("?"):
            out.append("[^/]")
            at += 1
        elif rest.startswith("[") and "]" in rest[2:]:
            end = rest.index("]", 2)
            members = rest[1:end]
            inverted = members.startswith("!")
            out.append(_set(members[1:] if inverted else members, inverted=inverted))
            at += end + 1
        else:
            out.append(re.escape(rest[0]))
            at += 1
    return "".join(out)


def _set(members: str, *, inverted: bool) -> str:
    if not members:
        return re.escape("[!]")
    parts: list[str] = []
    at = 0
    while at < len(members):
        if members[at + 1 : at + 2] == "-" and at + 2 < len(members):
            first, last = members[at], members[at + 2]
            # An empty range, such as z-a, holds nothing; `re` would refuse it.
            parts += [f"{re.escape(first)}-{re.escape(last)}"] if first <= last else []
            at += 3
        else:
            parts.append(re.escape(members[at]))
            at += 1
    if not parts:
        return "[^/]" if inverted else "(?!)"
    return f"(?!/)[{'^' if inverted else ''}{''.join(parts)}]"
