"""Which appends need the disk."""

from mcr_node.core.raft.messages import Message


class Promises:
    """Term and vote as they were last handed out to be written."""

    def __init__(self, term: int, vote: int) -> None:
        """Begin with what is on disk."""
        self._written = (term, vote)

    def needs_disk(self, message: Message, *, is_alone: bool) -> bool:
        """Say whether a STORAGE_APPEND has anything to write; to be asked of each, in order.

        Nothing for a commit index alone, which is learnt again: what such a message promises rests on what
        was written before it. But a sole voter has nobody to learn it from, and would begin a term at each
        start to find out.
        """
        wanted = (message.term, message.vote)
        is_promise = wanted not in ((0, 0), self._written)
        if is_promise:
            self._written = wanted
        return is_promise or is_alone or bool(message.entries) or message.snapshot is not None
