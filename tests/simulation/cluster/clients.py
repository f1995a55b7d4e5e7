"""Callers: each does one thing after another, anywhere, and asks again under the same request id.

An operation begins knowing how far anybody had been answered by then; its own answer must come after that.
Since every answer names its place in the log, this order check is a full check of linearizability.
"""

from dataclasses import replace

from mcr.model import ChunkId, RequestId
from mcr_node.core.state import codec
from mcr_node.core.state.commands import CommitVersion, MoveChannel
from mcr_node.core.state.outcomes import Outcome
from tests.simulation.cluster.node import Host, Process
from tests.simulation.cluster.oracle import CHANNEL, MODELS, Oracle, seen_by_a_reader
from tests.simulation.cluster.world import MS, World

ATTEMPTS_MAX = 12
EPOCH_MS = 1_700_000_000_000


class Load:
    """When callers hurry and when they rest; a burst is short, for faults find most where little waits.

    Long stretches of the same full load cost nearly all the time and find nothing that the first second of
    them did not; what happens at the beginning and at the end of a burst, and in silence, is more varied.
    """

    def __init__(self, world: World, hurry_us_max: int, rest_us_max: int) -> None:
        self._world = world
        self._hurry_us_max = hurry_us_max
        self._rest_us_max = rest_us_max
        self._is_hurried = True

    def start(self) -> None:
        world = self._world

        def turn() -> None:
            self._is_hurried = not self._is_hurried
            stretch_us = (
                world.between(100 * MS, 1500 * MS) if self._is_hurried else world.between(300 * MS, 4000 * MS)
            )
            world.after(stretch_us, turn)

        turn()

    def pause_us(self) -> int:
        """Draw how long a caller waits before its next operation."""
        return self._world.between(1, self._hurry_us_max if self._is_hurried else self._rest_us_max)


class Client:
    """One caller with at most one operation under way."""

    def __init__(self, number: int, world: World, oracle: Oracle, load: Load) -> None:
        self.number = number
        self.is_stopped = False
        self._world = world
        self._oracle = oracle
        self._load = load
        self._count = 0
        # Of the operation under way; an answer to an earlier try of it is an answer.
        self._operation = 0
        self._begun_after = 0
        self._command: CommitVersion | MoveChannel | None = None
        self._attempts = 0

    def start(self) -> None:
        self._world.after(self._load.pause_us(), self._begin)

    def _begin(self) -> None:
        if self.is_stopped:
            return
        self._operation += 1
        self._attempts = 0
        self._begun_after = self._oracle.answered_index
        self._command = None if self._world.happens(400) else self._new_command()
        self._try()

    def _new_command(self) -> CommitVersion | MoveChannel:
        world = self._world
        self._count += 1
        request_id = RequestId(b"client-%d-%d" % (self.number, self._count))
        model = world.pick(MODELS)
        at_ms = EPOCH_MS + world.now_us // MS
        places = self._oracle.history.places
        versions, _, generation = places[-1].seen[MODELS.index(model)] if places else (0, 0, 0)
        if versions and world.happens(300):
            return MoveChannel(
                request_id=request_id,
                principal="ci",
                at_ms=at_ms,
                model=model,
                channel=CHANNEL,
                number=world.between(1, versions),
                expected_generation=generation if world.happens(500) else None,
                reason="",
            )
        return CommitVersion(
            request_id=request_id,
            principal="ci",
            at_ms=at_ms,
            model=model,
            branch="main",
            expected_head=versions if world.happens(300) else None,
            parent=None,
            description="",
            parameters={},
            manifest=ChunkId(bytes(32)),
            bytes_total=1,
            file_count=1,
            chunk_count=1,
            metrics={},
        )

    def _try(self) -> None:
        if self.is_stopped:
            return
        world = self._world
        self._attempts += 1
        if self._attempts > ATTEMPTS_MAX:
            world.count("client gave up")
            self._pause()
            return
        alive = [host for host in self._oracle.hosts.values() if host.process is not None]
        if not alive:
            world.after(50 * MS, self._try)
            return
        host = world.pick(alive)
        process = host.process
        assert process is not None
        ticket, data = self._ask(host, process)
        operation, attempt = self._operation, self._attempts

        def time_out() -> None:
            if (operation, attempt) == (self._operation, self._attempts):
                # One that is paused does not notice; what comes of it later is not waited for.
                if process.is_alive and process.paused_until_us <= world.now_us:
                    process.forget(ticket, data)
                world.count("client timeout")
                self._try()

        world.after(world.between(30 * MS, 900 * MS), time_out)

    def _ask(self, host: Host, process: Process) -> tuple[int, bytes | None]:
        world, operation = self._world, self._operation
        command = self._command
        if command is None:

            def read_answered(index: int) -> None:
                if operation == self._operation:
                    world.note(f"client {self.number} read {index} {seen_by_a_reader(host.state.view())}")
                    world.counts["reads"] = world.counts.get("reads", 0) + 1
                    self._oracle.read_answered(host, self._begun_after)
                    self._pause()

            return process.read(read_answered), None
        if self._attempts > 1 and world.happens(500):
            command = replace(command, at_ms=EPOCH_MS + world.now_us // MS)
        data = codec.encode(command)

        def answered(outcome: Outcome) -> None:
            if operation == self._operation:
                world.note(f"client {self.number} wrote {outcome.index} {type(outcome).__name__}")
                world.counts["writes"] = world.counts.get("writes", 0) + 1
                self._oracle.request_answered(command.request_id, outcome, self._begun_after)
                self._pause()

        return process.propose(data, answered), data

    def _pause(self) -> None:
        # Whatever still comes for this operation is too late.
        self._operation += 1
        self._world.after(self._load.pause_us(), self._begin)
