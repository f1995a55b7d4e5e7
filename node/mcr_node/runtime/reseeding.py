"""A node whose state is wrong gets another: the leader's, in the place of its own.

Only the state is at fault. The log is what all agreed on, this node has acknowledged entries of it and cast
votes by it, so it stays as it is, to the last entry, and goes on meanwhile: a node that forgot what it
acknowledged could undo what a majority holds (Raft §5.4). So this is not the snapshot that a follower without
log gets, which comes with a new log: the state is put beside the log, and the node opens both as after any
restart.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from mcr.blocking import run_blocking
from mcr.errors import FailedError, McrError
from mcr.model import LogIndex
from mcr_node.core.members import Member
from mcr_node.core.state.digest import Divergence
from mcr_node.ports import LogStore, SnapshotManifest, Snapshots, SnapshotSink, StatePosition
from mcr_node.runtime.runner import Runner

# Between two rounds of asking everybody: there may be no leader yet, for this very node led a moment ago.
RETRY_S = 0.5


class Donors(Protocol):
    """The other nodes, as those that give their state."""

    async def fetch(
        self, donor: Member, index_min: LogIndex, receive: Callable[[SnapshotManifest], SnapshotSink]
    ) -> SnapshotSink:
        """Fetch every byte of a snapshot; the result is not installed yet.

        Args:
            donor: who is asked; gives it only while it leads and is sound.
            index_min: the snapshot holds at least the log up to here.
            receive: begins to receive; called on a worker thread.

        Raises:
            McrError: it does not give it; ask another node.
        """


class Reseeding:
    """Replaces the state of a node whose runner has stopped because of it."""

    def __init__(self, runner: Runner, log: LogStore, snapshots: Snapshots, executor: Executor) -> None:
        """Work on the stores of a node whose runner applies nothing any more."""
        self._runner = runner
        self._log = log
        self._snapshots = snapshots
        self._executor = executor

    async def run(self, divergence: Divergence, donors: Donors) -> StatePosition:
        """Ask until somebody gives a state, and put it in place; the stores must be opened anew then.

        Raises:
            OutOfSpaceError, CorruptStoreError: what came could not be installed; the state is fenced still.
        """
        myself = self._runner.node_id
        while True:
            self._step_down()
            members = self._runner.membership.members
            for member in [one for one in members if one.node_id != myself and one.address]:
                try:
                    # From the entry on that told of it: a state beyond it has passed that comparison itself.
                    sink = await donors.fetch(member, divergence.found_at, self._receive)
                except McrError:
                    # Not the leader, not there, or behind: the next one, and then all again.
                    continue
                return await run_blocking(self._executor, sink.install)
            await asyncio.sleep(RETRY_S)

    def _step_down(self) -> None:
        """Let another voter lead: only a leader gives its state, and this one has none to give."""
        runner = self._runner
        others = [voter for voter in runner.membership.conf.voters if voter != runner.node_id]
        if runner.replica.is_leader and others:
            target = max(others, key=lambda voter: runner.replica.match_of(voter) or 0)
            runner.decide(lambda replica: replica.transfer_leader(target))

    def _receive(self, manifest: SnapshotManifest) -> SnapshotSink:
        first, _ = self._log.bounds()
        if manifest.position.applied < first - 1:
            raise FailedError("snapshot", f"it ends at {manifest.position.applied}, before the log begins")
        return self._snapshots.receive(manifest)
