"""Commands about retention: the rules of a branch, and what goes by them."""

from mcr.values import dataclass
from mcr_node.core.state.envelope import Envelope

Best = tuple[int, str, str]
"""Count, metric and goal of a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionCommand(Envelope):
    """Base of the commands of this module.

    Attributes:
        branch: "" = the branches that have no rules of their own.
    """

    model: str
    branch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRetention(RetentionCommand):
    """Replace the rules of a branch; see `mcr.retention_rules.RetentionRules`.

    Attributes:
        is_none: take the rules away; the others do not matter then.
    """

    last: int = 0
    best: tuple[Best, ...] = ()
    every: int = 0
    age_min_ms: int = 0
    trash_ms: int = 0
    is_none: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireVersions(RetentionCommand):
    """Put versions into the trash that go by the rules of their branch.

    Attributes:
        branch: whose rules they are: "" where those of all others decided.
        generation: of the rules by which it was decided; others are another decision.
        numbers: 1 to DELETIONS_MAX, ascending.
    """

    generation: int
    numbers: tuple[int, ...]
