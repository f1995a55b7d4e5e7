"""What the core raises, split by who must act.

RaftError
├── ProposalDroppedError        caller: nothing was appended; ask again, perhaps elsewhere
├── ReadDroppedError            caller: no read was begun; ask again
├── InvalidMessageError         transport: drop the message, count it, keep the node running
│   ├── LocalMessageError       a local kind came from the network
│   └── UnknownPeerError        from a node outside the configuration, as far as known
├── ConfChangeError             caller: the change cannot follow the present configuration
├── CompactedError              the log no longer holds that index
├── UnavailableError            the log does not hold that index yet
├── SnapshotUnavailableError    storage: no snapshot just now; the core asks again later
└── HaltError                   operator: stop this node, keep its data
"""


class RaftError(Exception):
    """Root of all errors of the core."""


class ProposalDroppedError(RaftError):
    """Nothing was appended here; the proposer may try again, here or at the leader.

    Unlike a timeout this is no "unknown outcome": the proposal was certainly not accepted by this node.
    """


class ReadDroppedError(RaftError):
    """No leader is known, or too many reads wait; nothing was begun."""


class InvalidMessageError(RaftError):
    """The message makes no sense by itself; the state is untouched."""


class LocalMessageError(InvalidMessageError):
    """A kind that only this node may send to itself came from outside."""


class UnknownPeerError(InvalidMessageError):
    """A response, or an order to campaign, came from a node that is not in the configuration."""


class ConfChangeError(RaftError):
    """The change cannot follow the present configuration; nothing changed."""


class CompactedError(RaftError):
    """The index lies before the first one kept; a snapshot stands for it."""


class UnavailableError(RaftError):
    """The index lies beyond the last one."""


class SnapshotUnavailableError(RaftError):
    """Storage has no snapshot to give now; the core asks again with the next heartbeat."""


class HaltError(RaftError):
    """Committed state and input contradict each other.

    Cause: a log that lost acknowledged entries (wiped or restored disk), two nodes under one id, or a bug.
    Remedy: stop this node, keep its data for inspection, rejoin it under a new id.
    """
