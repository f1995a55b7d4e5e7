"""Commands about space and where chunks are: quotas, and the fence behind a change of the members."""

from mcr.values import dataclass
from mcr_node.core.state.envelope import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceCommand(Envelope):
    """Base of the commands of this module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuota(SpaceCommand):
    """Bound the bytes of the versions of a model, or of all models of a namespace.

    Attributes:
        scope: `namespace/name`, or `namespace`.
        bytes_max: None = there is no bound any more.
    """

    scope: str
    bytes_max: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CountQuota(SpaceCommand):
    """Go on counting what there was before a quota was set; repeated until all is counted."""

    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceCommits(SpaceCommand):
    """Refuse commits whose chunks were sealed among members of an earlier epoch.

    Attributes:
        epoch: of the first members whose seals count.
    """

    epoch: int
