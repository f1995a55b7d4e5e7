"""Which appends need the disk, and what is written along with the next one that does."""

from mcr_node.core.raft.messages import HardState, Message


class Promises:
    """The hard state as it was last handed out to be written, and what of it was not.

    A commit index alone is not worth a write: it is learnt again. But it must be on disk before any entry
    that comes later. A leader proposes a membership change only when the one before it is in force, so a
    node that holds the second knows that the first is committed, and does not campaign before it has applied
    it (etcd#7625). That has to hold after a restart as well; two configurations apart, majorities need not
    meet.

    Attributes:
        owed: to be written before anything else, by whoever writes next; None for nothing.
    """

    def __init__(self, written: HardState) -> None:
        """Begin with what is on disk."""
        self._promised = (written.term, written.vote)
        self.owed: HardState | None = None

    def needs_disk(self, message: Message, *, is_alone: bool) -> bool:
        """Say whether a STORAGE_APPEND has anything to write; to be asked of each, in order.

        What one that has nothing to write promises rests on what was written before it. A sole voter writes
        even a commit index: it has nobody to learn it from, and would begin a term at each start to find out.
        """
        hard = HardState(message.term, message.vote, message.commit)
        wanted = (hard.term, hard.vote)
        is_promise = wanted not in ((0, 0), self._promised)
        if is_promise:
            self._promised = wanted
        if is_promise or is_alone or message.entries or message.snapshot is not None:
            return True
        if hard != HardState():
            self.owed = hard
        return False
