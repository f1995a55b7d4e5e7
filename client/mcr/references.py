"""How users name things: models, refs, versions, times. Parsing only; a node resolves."""

import re
from enum import StrEnum
from functools import lru_cache

from mcr.errors import InvalidNameError, InvalidReferenceError
from mcr.model import NAME_CHARACTERS_MAX, RefKind
from mcr.values import dataclass

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_NUMBER = re.compile(r"v([1-9][0-9]{0,18})", re.ASCII)
_ID = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
DEFAULT_BRANCH = "main"
REF_KINDS = tuple(str(kind) for kind in RefKind)


class Selector(StrEnum):
    """What kind of thing the part after `@` names."""

    NUMBER = "number"
    BRANCH = "branch"
    TAG = "tag"
    CHANNEL = "channel"
    ANY = "any"
    """One word without a prefix: a branch, tag, channel, or the start of an id."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed `model@what`.

    Attributes:
        number: for `Selector.NUMBER`, else 0.
        name: for the other selectors.
    """

    model: str
    selector: Selector
    name: str = ""
    number: int = 0

    def __str__(self) -> str:
        match self.selector:
            case Selector.NUMBER:
                return f"{self.model}@v{self.number}"
            case Selector.ANY:
                return f"{self.model}@{self.name}"
            case _:
                return f"{self.model}@{self.selector}:{self.name}"


# The same few names come again and again; what is refused is looked at anew.
@lru_cache(maxsize=4096)
def check_name(kind: str, name: str) -> str:
    """Return `name` if it may name a `kind` (branch, tag, channel, part of a model name).

    A ref cannot look like a version (`v12`) or a full id, else a reference would be ambiguous for ever.

    Raises:
        InvalidNameError: says which rule is broken.
    """
    if not name:
        raise InvalidNameError(kind, name, "it is empty")
    if len(name) > NAME_CHARACTERS_MAX:
        raise InvalidNameError(
            kind, name[:120], f"it has {len(name)} characters, at most {NAME_CHARACTERS_MAX}"
        )
    if _NAME.fullmatch(name) is None:
        raise InvalidNameError(kind, name, "it has a character that is not allowed, or a bad first one")
    if kind in REF_KINDS and (_NUMBER.fullmatch(name) or (len(name) == 64 and _ID.fullmatch(name))):
        raise InvalidNameError(kind, name, "it looks like a version number or id")
    return name


@lru_cache(maxsize=4096)
def check_model(model: str) -> str:
    """Return `model` if it has the form `namespace/name`.

    Raises:
        InvalidNameError: it has not.
    """
    namespace, slash, name = model.partition("/")
    if not slash or "/" in name:
        raise InvalidNameError("model", model[:240], "it must have the form namespace/name")
    check_name("model", namespace)
    check_name("model", name)
    return model


def parse_reference(text: str, *, model: str = "") -> Reference:
    """Parse `model@what`, or `what` alone when `model` is given.

    Without `@what` the head of branch `main` is meant.

    Raises:
        InvalidReferenceError, InvalidNameError: the text does not have the form.
    """
    if len(text) > 4 * NAME_CHARACTERS_MAX:
        raise InvalidReferenceError(text[:60] + "…", "it is too long")
    if model:
        prefix, at, what = text.rpartition("@")
        if at and prefix != model:
            raise InvalidReferenceError(text, f"it names another model than {model}")
    else:
        model, at, what = text.partition("@")
        if not at:
            return Reference(check_model(model), Selector.BRANCH, DEFAULT_BRANCH)
    return _parse_what(check_model(model), what, text)


def _parse_what(model: str, what: str, text: str) -> Reference:
    if not what:
        raise InvalidReferenceError(text, "nothing stands after @")
    kind, colon, name = what.partition(":")
    if colon:
        if kind not in REF_KINDS:
            raise InvalidReferenceError(text, f"{kind!r} is not branch, tag or channel")
        return Reference(model, Selector(kind), check_name(kind, name))
    number = _NUMBER.fullmatch(what)
    if number:
        return Reference(model, Selector.NUMBER, number=int(number[1]))
    if _NAME.fullmatch(what) is None or len(what) > NAME_CHARACTERS_MAX:
        raise InvalidReferenceError(text, f"{what!r} is no version, id, branch, tag or channel")
    return Reference(model, Selector.ANY, what)


def is_id_prefix(word: str) -> bool:
    """Tell whether `word` could be the start of a version id: 8 to 64 hexadecimal characters."""
    return _ID.fullmatch(word.lower()) is not None
