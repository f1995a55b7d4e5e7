"""How much the runner takes at a time, and how long it waits for more."""

from typing import Final

from mcr.model import KIB

# Proposals that wait for the log. A caller beyond it waits in line, which slows it down as it should.
PROPOSALS_WAITING_MAX: Final = 4096
# The log keeps this many applied entries, then is cut back to half: enough for a follower that was away for a
# while to catch up by log, and bounded.
LOG_ENTRIES_KEPT_MAX: Final = 20_000
# Appends made durable by one sync, at the most.
APPENDS_PER_SYNC_MAX: Final = 64
# So many entries are applied on the event loop itself. The database's binding holds the interpreter's lock
# while it reads and writes, so a thread would hold the loop up as long, and the way takes as long as two
# entries.
APPLIED_AT_ONCE_MAX: Final = 4
# Of their data, for one entry may hold as many reports of metrics as keep the loop busy for ten milliseconds.
APPLIED_AT_ONCE_BYTES_MAX: Final = 16 * KIB
# How long a few entries wait to be applied by a node on which nobody waits for them.
PUT_OFF_S: Final = 0.02
# One more than one, so that a long list does not hold up every other read.
READ_TRIPS_MAX: Final = 2
# How long commands that come many at a time wait for each other, to share messages and syncs. A batch costs
# as much as ten commands, and who is one of many waits several times as long anyway.
GATHER_S: Final = 0.010
