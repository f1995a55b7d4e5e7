"""Commands on their way into the log: which wait to be sent, which wait for their outcome.

A proposal belongs to one term: to that in which it was sent, to the leader of it. See `replica`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from mcr.values import dataclass

# Commands in one step of the log: enough to make one disk sync cheap for each, small enough to be heard of.
PROPOSALS_PER_BATCH_MAX: Final = 512
# Of their bytes; with the largest command it stays well below what a peer takes in one message.
PROPOSAL_BYTES_PER_BATCH_MAX: Final = 1 << 20
# So many commands go out although the batch before them is not committed yet; fewer wait for it. Half of 64
# clients: one half is on its way while the other half asks.
GATHERED_MIN: Final = 32
# After a batch of so many the next one is given time to gather as well.
GATHER_FROM: Final = 4
# Commands of other nodes that wait here for the leader's log; beyond it they are dropped, and asked again.
FORWARDED_WAITING_MAX: Final = 4096


@dataclass(slots=True)
class _Proposal:
    """A command on its way; `term` is the one it was given to, 0 while it waits for a leader."""

    ticket: int
    command: bytes
    term: int = 0


class Proposals:
    """The commands of one node's callers, and on a leader those that other nodes handed on."""

    def __init__(self) -> None:
        self._by_command: dict[bytes, list[_Proposal]] = {}
        self._unsent: deque[_Proposal] = deque()
        self._forwarded: deque[tuple[int, bytes]] = deque()
        # How many commands the last batch had, and whether the present one has been given its time.
        self._last_gathered = 0
        self._is_gathered = False

    @property
    def waiting(self) -> int:
        """How many wait for their outcome."""
        return sum(map(len, self._by_command.values()))

    def add(self, ticket: int, command: bytes) -> None:
        """Take a command of a caller."""
        proposal = _Proposal(ticket, command)
        self._by_command.setdefault(command, []).append(proposal)
        self._unsent.append(proposal)

    def forget(self, ticket: int, command: bytes) -> None:
        """Stop waiting for an outcome."""
        left = [one for one in self._by_command.pop(command, []) if one.ticket != ticket]
        if left:
            self._by_command[command] = left
        self._unsent = deque(one for one in self._unsent if one.ticket != ticket)

    def decided(self, command: bytes, term: int) -> list[int]:
        """Hear that an entry of `term` with this command was applied; return the tickets that it answers."""
        found = self._by_command.pop(command, ())
        for proposal in found:
            # Waiting for this term or, not sent yet, as good as sent: it is the same request, byte for byte.
            proposal.term = term
        return [proposal.ticket for proposal in found]

    def send_lost_again(self, term: int) -> None:
        """Send what was sent in an earlier term than `term` and not seen in the log: it never will be."""
        lost = [one for same in self._by_command.values() for one in same if 0 < one.term < term]
        for proposal in lost:
            proposal.term = 0
        self._unsent.extend(lost)

    # ---- gathering, on a leader ----

    def accept_forwarded(self, term: int, commands: Iterable[bytes]) -> None:
        """Take commands that another node was given, meant for the leader of `term`."""
        for command in commands:
            if len(self._forwarded) < FORWARDED_WAITING_MAX:
                self._forwarded.append((term, command))

    def drop_forwarded(self) -> None:
        """Forget what other nodes handed on: this one leads no more."""
        self._forwarded.clear()

    @property
    def is_gathering(self) -> bool:
        """Whether commands wait for more of them: where the batch before shows that many come at a time."""
        is_busy = self._last_gathered >= GATHER_FROM and not self._is_gathered
        return is_busy and bool(self._unsent or self._forwarded)

    def end_gathering(self) -> None:
        """Let what waits go into the log."""
        self._is_gathered = True

    def begin_batch(self, *, is_idle: bool) -> bool:
        """Say whether what waits should go into the log now; it counts as gone.

        What comes while a batch is on its way gathers, and shares the next sync and the next messages. Sent
        one by one, a command costs each node several wake-ups, and they do nothing else.

        Args:
            is_idle: nothing is on its way.
        """
        gathered = len(self._unsent) + len(self._forwarded)
        if gathered < GATHERED_MIN and (not gathered or not is_idle or self.is_gathering):
            return False
        self._is_gathered = False
        self._last_gathered = gathered
        return True

    # ---- sending ----

    def append_forwarded(self, term: int, append: Callable[[Sequence[bytes]], bool]) -> bool:
        """Leader of `term`: append what other nodes handed on; False when the log takes no more now."""
        while self._forwarded:
            commands: list[bytes] = []
            size_bytes = 0
            while self._forwarded and len(commands) < PROPOSALS_PER_BATCH_MAX:
                meant, command = self._forwarded[0]
                if commands and size_bytes + len(command) > PROPOSAL_BYTES_PER_BATCH_MAX:
                    break
                self._forwarded.popleft()
                if meant == term:
                    commands.append(command)
                    size_bytes += len(command)
            if commands and not append(commands):
                self._forwarded.extendleft((term, command) for command in reversed(commands))
                return False
        return True

    def send(self, term: int, send: Callable[[Sequence[bytes]], bool]) -> None:
        """Send what waits to the leader of `term`, batch by batch, until `send` takes no more."""
        while batch := self._next_unsent(term):
            if not send([proposal.command for proposal in batch]):
                for proposal in batch:
                    proposal.term = 0
                self._unsent.extendleft(reversed(batch))
                return

    def _next_unsent(self, term: int) -> list[_Proposal]:
        batch: list[_Proposal] = []
        size_bytes = 0
        while self._unsent and len(batch) < PROPOSALS_PER_BATCH_MAX:
            size_bytes += len(self._unsent[0].command)
            if batch and size_bytes > PROPOSAL_BYTES_PER_BATCH_MAX:
                break
            proposal = self._unsent.popleft()
            if proposal.term == 0:
                proposal.term = term
                batch.append(proposal)
        return batch
