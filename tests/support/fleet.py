"""A fleet: followers as processes on the nodes of a cluster, of one channel of one model."""

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from mcr.client import Client
from mcr.model import Parameters
from mcr.testing import LocalCluster
from tests.support.followers import FollowerProcess
from tests.support.served import bytes_from

MODEL, CHANNEL = "vision/net", "production"
GOOD, BAD = 1, 2
POLICY = "loss"
# So many that rounds of a benchmark do not run out of them.
RULES: Parameters = {
    "channel": CHANNEL,
    "metric": "loss",
    "above": 2.0,
    "target": "previous",
    "max_per_day": 100,
}


class Fleet:
    """Followers of a channel that has versions v1 and v2, both held by all of them; it is at v1."""

    def __init__(
        self, cluster: LocalCluster, folder: Path, *, followers: int, all_nodes: bool = False
    ) -> None:
        """Note what to start.

        Args:
            cluster: it runs.
            folder: for everything.
            followers: how many.
            all_nodes: each may go to any node; else each knows one of them, in turn.
        """
        self._cluster = cluster
        self._folder = folder
        self._count = followers
        self._all_nodes = all_nodes
        self._stack = ExitStack()
        self.followers: list[FollowerProcess] = []

    def __enter__(self) -> Self:
        with self._cluster.connect() as client:
            model = client.model(MODEL)
            for number in (GOOD, BAD):
                source = self._folder / f"in{number}"
                source.mkdir()
                (source / "weights").write_bytes(bytes_from(number, 1_000_000))
                model.commit(source)
            model.report("v1", {"loss": 0.5})
            generation = model.channel(CHANNEL).set("v1").generation
            for i in range(self._count):
                node = self._cluster.nodes[i % len(self._cluster.nodes)].address
                where = self._cluster.addresses if self._all_nodes else node
                self.followers.append(
                    self._stack.enter_context(
                        FollowerProcess(
                            where,
                            f"{MODEL}@channel:{CHANNEL}",
                            self._folder / f"serving{i}",
                            "--consumer",
                            f"gpu-{i}",
                        )
                    )
                )
            self.settle(generation)
            model.set_policy(POLICY, RULES)
            # Once each way, so that everybody holds both.
            for version in ("v2", "v1"):
                self.settle(model.channel(CHANNEL).set(version).generation)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settle(self, generation: int) -> None:
        """Wait until every follower has a generation, or a later one, in use, and said so in the log."""
        for follower in self.followers:
            follower.until_loaded(generation)
            follower.until(lambda each: each["event"] == "acknowledged" and each["generation"] >= generation)

    def switches(self, generation: int) -> list[dict[str, Any]]:
        """Return when each follower switched for a generation."""
        return [
            follower.until(lambda each: each["event"] == "switched" and each["generation"] == generation)
            for follower in self.followers
        ]

    def served(self) -> set[int]:
        """Return which versions are served, by what the files hold."""
        found = set()
        for follower in self.followers:
            data = (follower.destination / "weights").read_bytes()
            (number,) = [n for n in (GOOD, BAD) if data == (self._folder / f"in{n}" / "weights").read_bytes()]
            found.add(number)
        return found

    def report_bad(self, client: Client) -> None:
        """Report what rolls the channel back."""
        client.model(MODEL).report("v2", {"loss": 9.0}, channel=CHANNEL)


def at_s(event: dict[str, Any]) -> float:
    """Return when something was said, seconds since 1970."""
    return datetime.fromisoformat(event["at"]).timestamp()
