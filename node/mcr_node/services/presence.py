"""Which members answer, as this node sees them, and for how long the others have not."""

import asyncio
from collections.abc import Callable, Sequence

from mcr.errors import McrError
from mcr.v1 import admin_pb2 as pb
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.ports import Clock
from mcr_node.services.colleagues import Colleagues

# A member that does not answer a ping by then is silent for now.
PING_S = 2.0
NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Present:
    """The other members at one moment, each in one of three, by id.

    Attributes:
        alive: answered just now.
        silent: did not, but may be back in a moment.
        gone: did not for so long that its copies are not counted on.
        lives: of those that are alive, of whose process the answer came: another one after a restart.
    """

    alive: tuple[Member, ...]
    silent: tuple[Member, ...]
    gone: tuple[Member, ...]
    lives: tuple[int, ...] = ()


class Presence:
    """Looks for the members."""

    def __init__(
        self,
        colleagues: Colleagues,
        others: Callable[[], Sequence[Member]],
        clock: Clock,
        *,
        silence_s: float,
    ) -> None:
        """Ask `others()`, the members besides this node; after `silence_s` of silence one is gone."""
        self._colleagues = colleagues
        self._others = others
        self._clock = clock
        self.silence_s = silence_s
        # Since when a member has been silent. After a restart everybody has the whole time again.
        self._silent_since_ns: dict[int, int] = {}

    async def look(self) -> Present:
        """Ask all of them, at once."""
        others = sorted(self._others(), key=lambda member: member.node_id)
        answers = await asyncio.gather(*(self._life(member) for member in others))
        now_ns = self._clock.monotonic_ns()
        before, self._silent_since_ns = self._silent_since_ns, {}
        alive: list[Member] = []
        silent: list[Member] = []
        gone: list[Member] = []
        for member, life in zip(others, answers, strict=True):
            if life is not None:
                alive.append(member)
                continue
            since_ns = self._silent_since_ns[member.node_id] = before.get(member.node_id, now_ns)
            is_gone = now_ns - since_ns >= self.silence_s * NS_PER_S
            (gone if is_gone else silent).append(member)
        lives = tuple(life for life in answers if life is not None)
        return Present(tuple(alive), tuple(silent), tuple(gone), lives)

    async def _life(self, member: Member) -> int | None:
        """Return of whose process a member answers; None when it does not."""
        request, ask = pb.PingRequest(), self._colleagues.admin
        try:
            async with asyncio.timeout(PING_S):
                answer = await ask(member.address, "Ping", request, pb.PingResponse)
        except (McrError, TimeoutError):
            return None
        return answer.life
