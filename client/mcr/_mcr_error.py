"""The bases of the errors of `mcr.errors`, which is where to import them from."""

from collections.abc import Mapping
from dataclasses import fields
from typing import ClassVar

from mcr.values import dataclass

FieldValue = str | int


@dataclass(eq=False)
class McrError(Exception):
    """Base of all errors; never raised itself.

    Class attributes:
        code: stable name, for programs.
        exit_status: what `mcr` exits with.
        template, hint_template: `str.format` patterns over the fields.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    template: ClassVar[str] = "failed"
    hint_template: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_again, (type(self), self.fields()))

    def fields(self) -> dict[str, FieldValue]:
        """Return the typed fields by name, in declaration order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def message(self) -> str:
        """What went wrong, one sentence without a full stop."""
        return self.template.format(**self.fields())

    @property
    def hint(self) -> str:
        """What to do next; may be empty."""
        return self.hint_template.format(**self.fields())


def _again(cls: type[McrError], values: Mapping[str, FieldValue]) -> McrError:
    return cls(**values)


class UsageError(McrError):
    """The call itself is wrong; it would fail anywhere, at any time."""

    exit_status = 2


class NotFoundError(McrError):
    """The thing named does not exist, or the name fits several."""

    exit_status = 3


class ConflictError(McrError):
    """Somebody was there first; look again, then decide."""

    exit_status = 10


class NotAllowedError(McrError):
    """A rule forbids it."""

    exit_status = 12


class CorruptError(McrError):
    """Bytes are damaged or gone; nothing wrong was served. An operator must look."""

    exit_status = 13
