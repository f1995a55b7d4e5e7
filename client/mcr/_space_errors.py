"""Errors about space and members; part of `mcr.errors`, where to import them from."""

from mcr._mcr_error import ConflictError, McrError
from mcr.values import dataclass


@dataclass(eq=False)
class QuotaExceededError(McrError):
    """A version does not fit into the quota of its model or namespace; nothing was committed."""

    scope: str
    bytes_used: int
    bytes_asked: int
    bytes_max: int
    code = "quota_exceeded"
    exit_status = 14
    template = "{scope} has {bytes_used} of {bytes_max} bytes in use, and {bytes_asked} more do not fit"
    hint_template = "delete versions (mcr delete), or let an operator raise it: mcr quota {scope} --set BYTES"


@dataclass(eq=False)
class LastCopyError(McrError):
    """To remove a member would lose chunks that no other member that answers holds."""

    member: str
    chunks: int
    version: str
    code = "last_copy"
    exit_status = 11
    template = "{chunks} chunks, of {version} among others, may be on {member} alone"
    hint_template = (
        "drain it (mcr cluster drain {member}), or bring back who else may have them; to lose them for good, "
        "mcr cluster remove {member} --force --accept-loss"
    )


@dataclass(eq=False)
class LayoutChangedError(ConflictError):
    """Somebody changed the layout, or the members, since it was looked at."""

    expected: int
    actual: int
    reason: str
    code = "layout_changed"
    template = "the layout is that of epoch {actual}, expected was {expected}: {reason}"
    hint_template = "look again with: mcr cluster layout show"


@dataclass(eq=False)
class MembersChangedError(ConflictError):
    """A member left, or is leaving, since it was found that the chunks of a version are held."""

    sealed_epoch: int
    fence_epoch: int
    code = "members_changed"
    template = "its chunks were sealed among the members of epoch {sealed_epoch}, before {fence_epoch}"
    hint_template = "commit again; nothing that is held is sent again"
