"""Nodes of a cluster on hosts of `benchmarks.networks`, and commands of clients there."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.networks import Host

PORT = 7101
START_S_MAX = 120.0
STOP_S = 20.0
READY_TRIES = 120
# `mcr` as this interpreter has it. gRPC says nothing about nodes that are not there yet.
_MCR = (sys.executable, "-m", "mcr.cli.main")
_ENVIRONMENT = {"GRPC_VERBOSITY": "NONE"}


@dataclass
class PlacedNode:
    """A node on a host."""

    name: str
    host: Host
    address: str
    process: "subprocess.Popen[str]" = field(repr=False)


class PlacedCluster:
    """Some nodes, the first of which began the cluster: a context manager."""

    def __init__(self, folder: Path, places: Sequence[tuple[Host, str]]) -> None:
        """Note where nodes shall be: a host and a site for each."""
        self._folder = folder
        self._places = places
        self._stack = ExitStack()
        self.nodes: list[PlacedNode] = []

    def __enter__(self) -> Self:
        try:
            for at, (host, site) in enumerate(self._places):
                self._start(at, host, site)
            self._wait_ready()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, at: int, host: Host, site: str) -> None:
        name, address = f"n{at + 1}", f"{host.address}:{PORT + at}"
        command = ["node", "start", "--json", "--name", name, "--listen", address, "--site", site]
        command += ["--data", str(self._folder / name)]
        command += ["--join", self.nodes[0].address] if self.nodes else ["--bootstrap"]
        log = self._stack.enter_context((self._folder / f"{name}.log").open("w"))
        process = subprocess.Popen(
            host.command(*_MCR, *command),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **_ENVIRONMENT},
        )
        self._stack.callback(_stop, process)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError((self._folder / f"{name}.log").read_text())
        self.nodes.append(PlacedNode(name, host, address, process))

    def _wait_ready(self) -> None:
        """Return once all have a vote."""
        for _ in range(READY_TRIES):
            try:
                status = self.run(0, "cluster", "status")
            except RuntimeError:
                continue
            members = status["members"]
            if len(members) == len(self.nodes) and all(one["role"] == "voter" for one in members):
                return
        raise RuntimeError("not all nodes got a vote")

    def command(self, host: Host, nodes: Sequence[int], *command: str) -> list[str]:
        """Return `mcr` as run on a host against some nodes."""
        addresses = ",".join(self.nodes[at].address for at in nodes)
        return host.command(*_MCR, *command, "--cluster", addresses, "--json")

    def run(self, at: int, *command: str) -> dict[str, Any]:
        """Run `mcr` beside a node, against it; return what it said last."""
        return finish(self.begin(at, *command))

    def begin(self, at: int, *command: str) -> "subprocess.Popen[str]":
        """Start `mcr` beside a node, against it."""
        return subprocess.Popen(
            self.command(self.nodes[at].host, [at], *command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **_ENVIRONMENT},
        )


def finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Wait for a command and return the last object it printed."""
    out, talk = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {talk}")
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
