"""Errors about deleted versions and garbage collection; part of `mcr.errors`, where to import them from."""

from mcr._mcr_error import ConflictError, NotFoundError
from mcr.values import dataclass


@dataclass(eq=False)
class VersionDeletedError(NotFoundError):
    """A version was deleted."""

    model: str
    version: str
    state: str
    code = "version_deleted"
    template = "{model}@{version} was deleted: {state}"
    hint_template = "see: mcr trash list {model}; what is still there comes back with: mcr trash restore"


@dataclass(eq=False)
class VersionInUseError(ConflictError):
    """A version that should be deleted is needed."""

    model: str
    version: str
    uses: str
    code = "version_in_use"
    template = "{model}@{version} cannot be deleted: {uses}"
    hint_template = "move or delete what needs it first"


@dataclass(eq=False)
class SealOutdatedError(ConflictError):
    """Garbage was marked after it was found that the chunks of a version are held."""

    sealed_round: int
    present_round: int
    code = "seal_outdated"
    template = (
        "garbage was marked since its chunks were looked for, in round {sealed_round}, not {present_round}"
    )
    hint_template = "commit again; nothing that is held is sent again"
