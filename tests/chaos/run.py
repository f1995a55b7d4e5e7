"""Real nodes under all kinds of failure: `python -m tests.chaos.run --minutes 10 --seed 7` (`make chaos`).

Several clients commit, read, check out, move a channel and roll back, each node has one of its own; meanwhile
a nemesis kills, pauses, cuts off, damages and restarts nodes. Then all is healed, and what clients were told
is compared with what the nodes hold (`history.py`), with each other, and with the bytes that were committed.

The seed gives the order of the faults and what each client does next; the moments are those of the machine,
so a seed repeats a run only nearly.
"""

import argparse
import asyncio
import random
import secrets
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from mcr import aio
from mcr.client import Client
from mcr.errors import DeadlineError, McrError
from mcr.model import RefKind, StoreStatus
from tests.chaos.clients import (
    CALL_S,
    CALL_S_MAX,
    CHANNEL,
    LOADS,
    LOG_WRITES,
    MODEL,
    READS,
    ChaosClient,
    Recorder,
)
from tests.chaos.disks import with_own_mounts
from tests.chaos.garbage import GarbageClient
from tests.chaos.history import Kind, Move, Operation, Seen, Truth, check
from tests.chaos.nemeses import FAULTS, ON_DISKS, ChaosCluster, Fault, Nemesis, unsound
from tests.support.load import PATIENCE_S
from tests.support.waiting import until

# Beside three clients of each node: some that go to any.
ROAMING_CLIENTS = 2
HOLD_S = (0.5, 3.0)
CALM_S = (0.2, 1.0)
# From the end of all faults until every node has all entries; a loaded machine has room.
HEAL_S_MAX = 60.0
# Checked out at the end and compared, each by one node in turn; all others are hashed by the nodes.
CHECKOUTS_MAX = 300
MOVES_MAX = 10_000_000
LEADER_KILLED = "kill -9 of the leader"
UNDER_WAY = {
    "commits": (Kind.COMMIT,),
    "rollbacks": (Kind.CHANNEL_ROLLBACK, Kind.BRANCH_ROLLBACK),
}
# Seeds are typed by people.
SEED_LIMIT = 1_000_000


@dataclass(slots=True)
class Outcome:
    """What a run did and found.

    Attributes:
        violations: as sentences; empty when every law held.
        checked: what was compared, with counts.
        no_disk: why no disk could be filled or lose power; empty when it could.
    """

    seed: int
    operations: list[Operation] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    no_disk: str = ""

    def recoveries_s(self) -> list[tuple[str, float]]:
        """Return, of each fault, how long it took until a write that began under it was answered.

        Where no majority was left: from the moment that all was undone until any write was answered.
        """
        writes = [
            (one.begun_s, one.ended_s) for one in self.operations if one.kind.is_write and one.is_answered
        ]
        found = []
        for fault in self.faults:
            if fault.keeps_majority:
                since_s = fault.began_s
                answered_s = [ended_s for begun_s, ended_s in writes if begun_s > since_s]
            else:
                since_s = fault.ended_s
                answered_s = [ended_s for _, ended_s in writes if ended_s > since_s]
            if answered_s:
                found.append((fault.name, min(answered_s) - since_s))
        return found

    def _fallen_into(self) -> list[str]:
        """Say how many kills of the leader fell into what."""
        lines = []
        kills_s = [fault.struck_s for fault in self.faults if fault.name.startswith(LEADER_KILLED)]
        for what, kinds in UNDER_WAY.items():
            spans = [(one.begun_s, one.ended_s) for one in self.operations if one.kind in kinds]
            count = sum(any(begun_s < kill_s < ended_s for begun_s, ended_s in spans) for kill_s in kills_s)
            lines.append(f"{count:8} of {len(kills_s)} kills of the leader while {what} were under way")
        return lines

    def told(self) -> str:
        """Return the report for people."""
        lines = []
        kinds = Counter(one.kind for one in self.operations)
        answered = Counter(one.kind for one in self.operations if one.is_answered)
        refused = Counter(one.kind for one in self.operations if one.is_refused)
        for kind, count in sorted(kinds.items()):
            unknown = count - answered[kind] - refused[kind]
            lines.append(
                f"{count:8} {kind}s: {answered[kind]} answered, {refused[kind]} refused, {unknown} open"
            )
        recoveries = self.recoveries_s()
        errors = Counter(one.error.partition(":")[0] for one in self.operations if one.error)
        lines += [f"{count:8} {error}" for error, count in errors.most_common()]
        lines.append(f"{len(self.faults):8} faults")
        for name, count in sorted(Counter(fault.name for fault in self.faults).items()):
            times_s = [elapsed_s for fault, elapsed_s in recoveries if fault == name]
            when = (
                f"next write after {statistics.median(times_s):.2f} s, at most {max(times_s):.2f} s"
                if times_s
                else ""
            )
            lasted_s = [fault.ended_s - fault.struck_s for fault in self.faults if fault.name == name]
            whole = f"undone after {statistics.median(lasted_s):.1f} s, at most {max(lasted_s):.1f} s"
            lines.append(f"{count:8} {name}: {f'{when}; ' if when else ''}{whole}")
        lines += self._fallen_into()
        if recoveries:
            all_s = [elapsed_s for _, elapsed_s in recoveries]
            lines.append(f"recovery p50 {statistics.median(all_s):.2f} s, max {max(all_s):.2f} s")
        lines += [f"{count:8} {what}" for what, count in self.checked.items()]
        if self.no_disk:
            lines.append(f"skipped: {', '.join(ON_DISKS)}; it {self.no_disk}")
        lines += [f"VIOLATION {violation}" for violation in self.violations]
        return "\n".join(lines)


def run(
    seed: int, seconds: float, *, nodes: int = 3, program: tuple[str, ...] = (), faults: Sequence[str] = ()
) -> Outcome:
    """Hurt a cluster for so long, and return what was found.

    Args:
        seed: see the module.
        seconds: under load and faults; start, healing and checks come on top.
        nodes: how many.
        program: instead of `mcr`: arguments of the interpreter, for nodes that are broken on purpose.
        faults: names of what is done to the nodes; empty = all kinds.
    """
    outcome = Outcome(seed)
    with ChaosCluster(nodes, program) as cluster:
        outcome.no_disk = cluster.no_disk
        try:
            asyncio.run(_run(cluster, seconds, outcome, faults))
        except (McrError, AssertionError) as error:
            outcome.violations.append(f"does not heal: {type(error).__name__}: {error}")
        outcome.violations += _ended_by_themselves(cluster)
    return outcome


async def _run(cluster: ChaosCluster, seconds: float, outcome: Outcome, faults: Sequence[str]) -> None:
    recorder = Recorder(outcome.operations, outcome.violations)
    chance = random.Random(outcome.seed)
    nemesis = Nemesis(cluster, recorder, chance, faults, outcome.faults, outcome.violations)
    async with AsyncExitStack() as stack:
        pinned, roaming = await _clients(cluster, recorder, outcome.seed, stack)
        # So that there is something to read, move to, and roll back to.
        for kind in (Kind.COMMIT, Kind.COMMIT, Kind.MOVE):
            assert (await roaming[0].act(kind)).is_answered, recorder.operations[-1]
        ending = asyncio.Event()
        way = await stack.enter_async_context(await aio.connect(cluster.addresses, timeout_s=CALL_S))
        garbage = GarbageClient(way, recorder, cluster.folder / "clients" / "garbage", outcome.seed)
        works = [*(client.run(ending) for client in (*pinned, *roaming)), garbage.run(ending)]
        works.append(recorder.watch(ending))
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await asyncio.to_thread(_hurt, nemesis, time.perf_counter() + seconds)
        finally:
            ending.set()
            done, hanging = await asyncio.wait(tasks, timeout=2 * CALL_S_MAX)
        for task in hanging:
            outcome.violations.append(f"hung: a client does not come to an end: {task}")
            task.cancel()
        for task in done:
            task.result()
        await asyncio.to_thread(cluster.heal)
        try:
            await asyncio.to_thread(cluster.wait_ready, HEAL_S_MAX)
        except DeadlineError as error:
            outcome.violations.append(f"does not heal: {error.message}")
            # What the node that leads now has is still to be compared with what clients were told.
            with await asyncio.to_thread(cluster.connect, cluster.leader()) as client:
                truth = await asyncio.to_thread(_truth, client)
        else:
            await _check_service(pinned, outcome)
            truth = await asyncio.to_thread(_check_nodes, cluster, outcome)
            await _check_bytes(pinned, recorder, random.Random(outcome.seed), outcome)
    outcome.checked["versions whose copies were counted on disks that stood still"] = nemesis.instants.counted
    outcome.checked["versions that share bytes with them, deleted for good"] = garbage.deleted
    report = check(outcome.operations, truth, call_s_max=CALL_S_MAX)
    outcome.violations += report.violations
    outcome.checked["calls compared with the log"] = len(outcome.operations)
    outcome.checked["reads that saw more than the place they name has"] = report.reads_ahead


async def _clients(
    cluster: ChaosCluster, recorder: Recorder, seed: int, stack: AsyncExitStack
) -> tuple[list[ChaosClient], list[ChaosClient]]:
    """Connect clients to each node, and some to all of them."""

    async def client(name: str, where: str, kinds: Sequence[Kind] = tuple(Kind)) -> ChaosClient:
        way = await stack.enter_async_context(await aio.connect(where, timeout_s=CALL_S))
        return ChaosClient(name, way, recorder, cluster.folder / "clients" / name, seed, kinds=kinds)

    pinned = [await client(f"at-{node.name}", node.address) for node in cluster.nodes]
    pinned += [await client(f"reads-{node.name}", node.address, READS) for node in cluster.nodes]
    pinned += [await client(f"moves-{node.name}", node.address, LOG_WRITES) for node in cluster.nodes]
    roaming = [await client(f"any-{number}", cluster.addresses) for number in range(1, 1 + ROAMING_CLIENTS)]
    roaming.append(await client("loads-any", cluster.addresses, LOADS))
    everyone = [*pinned, *roaming]
    for number, one in enumerate(everyone):
        one.other_way = everyone[(number + 1) % len(everyone)].way
    return pinned, roaming


def _hurt(nemesis: Nemesis, until_s: float) -> None:
    """Strike with every kind of fault in turn until the time is up."""
    nap = _Nap(nemesis.chance)
    names: list[str] = []
    told = 0
    while time.perf_counter() < until_s:
        if not names:
            names = nemesis.kinds()
        nap(CALM_S)
        nemesis.strike(names.pop(), lambda: nap(HOLD_S))
        last = nemesis.faults[-1]
        sys.stderr.write(
            f"{len(nemesis.faults)} {last.name}, {last.ended_s - last.struck_s:.1f} s;"
            f" {len(nemesis.recorder.operations)} calls, {len(nemesis.wrong)} violations\n"
        )
        for violation in nemesis.wrong[told:]:
            sys.stderr.write(f"VIOLATION {violation}\n")
        told = len(nemesis.wrong)


class _Nap:
    """Lets time pass, which is what the clients need to get into trouble."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def __call__(self, span_s: tuple[float, float]) -> None:
        asyncio.run(asyncio.sleep(self._chance.uniform(*span_s)))


async def _check_service(pinned: Sequence[ChaosClient], outcome: Outcome) -> None:
    """Every node takes every kind of call again."""
    for client in pinned:
        for kind in Kind:
            operation = await client.act(kind)
            if not operation.is_answered and not operation.is_refused:
                outcome.violations.append(f"no service: {kind} of {client.name}, healed: {operation.error}")


def _check_nodes(cluster: ChaosCluster, outcome: Outcome) -> Truth:
    """Every node holds one and the same state, and all of the content."""
    clients = [cluster.connect(i) for i in range(len(cluster.nodes))]
    try:
        statuses: list[StoreStatus] = []

        def level() -> bool:
            statuses[:] = [client.status() for client in clients]
            return len({status.applied_index for status in statuses}) == 1

        until(level, PATIENCE_S)
        if len({status.state_digest for status in statuses}) > 1:
            outcome.violations.append(f"diverged: {[status.state_digest for status in statuses]}")
        truths = [_truth(client) for client in clients]
        if any(truth != truths[0] for truth in truths):
            outcome.violations.append("diverged: the nodes tell different histories")
        chunks = 0
        for node, client in zip(cluster.nodes, clients, strict=True):
            report = client.check()
            chunks += report.chunks_checked
            outcome.violations += unsound(node.name, report)
    finally:
        for client in clients:
            client.close()
    outcome.checked["nodes with equal digests and histories"] = len(clients)
    outcome.checked["entries of the log"] = statuses[0].applied_index
    outcome.checked["versions"] = len(truths[0].versions)
    outcome.checked["moves of the channel"] = len(truths[0].channel)
    outcome.checked["chunks read and hashed, over all nodes"] = chunks
    return truths[0]


def _truth(client: Client) -> Truth:
    """Return what a node holds."""
    model = client.model(MODEL)
    versions = sorted((one.number, one.id, one.description) for one in model.all_versions())
    described = {number: text for number, _, text in versions}
    branch = client._loop.run(
        client.model(MODEL)._model.history(RefKind.BRANCH, "main", limit=MOVES_MAX), "history"
    )
    channel = model.channel(CHANNEL).history(limit=MOVES_MAX)
    return Truth(
        branch=tuple(
            Move(
                move.log_index,
                Seen(move.number, move.generation),
                # A commit has no reason: its text is the description.
                move.reason or described.get(move.number, ""),
                move.version_id,
            )
            for move in reversed(branch)
        ),
        channel=tuple(
            Move(move.log_index, Seen(move.number, move.generation), move.reason, move.version_id)
            for move in reversed(channel)
        ),
        versions=tuple(versions),
    )


async def _check_bytes(
    pinned: Sequence[ChaosClient], recorder: Recorder, chance: random.Random, outcome: Outcome
) -> None:
    """What was committed comes back bit for bit, from every node."""
    sample = chance.sample(recorder.commits, min(CHECKOUTS_MAX, len(recorder.commits)))
    for position, (number, seed) in enumerate(sample):
        client = pinned[position % len(pinned)]
        try:
            await client.check_out(number, seed)
        except McrError as error:
            outcome.violations.append(f"not given: v{number} by {client.name}, healed: {error.message}")
    outcome.checked["acknowledged commits"] = len(recorder.commits)
    outcome.checked["of these checked out and compared in the end"] = len(sample)


def _ended_by_themselves(cluster: ChaosCluster) -> list[str]:
    return [
        f"node ended: {node.name} by itself, with {node.process.returncode}: {node.talk()[-500:]}"
        for node in cluster.nodes
        if node.process is not None and node.process.poll() is not None
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="0 = any")
    parser.add_argument("--only", default="", help="faults whose names have this in them")
    options = parser.parse_args()
    with_own_mounts()
    seed = options.seed or 1 + secrets.randbelow(SEED_LIMIT)
    again = f"make chaos MINUTES={options.minutes:g} NODES={options.nodes} SEED={seed}"
    sys.stdout.write(f"seed {seed}; again: {again}\n")
    sys.stdout.flush()
    began_s = time.perf_counter()
    faults = [name for name in FAULTS if options.only in name]
    outcome = run(seed, options.minutes * 60, nodes=options.nodes, faults=faults)
    sys.stdout.write(f"{outcome.told()}\n")
    found = len(outcome.violations)
    sys.stdout.write(f"{time.perf_counter() - began_s:.0f} s, {found or 'no'} violations (seed {seed})\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
