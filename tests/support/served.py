"""Real node processes on loopback, for tests that need the network and the process around it."""

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

COMMAND = [sys.executable, "-m", "mcr.cli.main"]
# The same, to be interrupted: a suite that runs in the background of a shell inherits SIGINT ignored, and
# would hand that on. Not by `preexec_fn`: that forks, and a fork of a process that uses gRPC may not live.
INTERRUPTIBLE = [
    sys.executable,
    "-c",
    "import os, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "os.execv(sys.argv[1], sys.argv[1:])",
    *COMMAND,
]
# Generous: a loaded machine starts a process in seconds.
START_S_MAX = 60.0
STOP_S_MAX = 30.0


@dataclass
class ServedNode:
    """One node; started again, it listens where it listened before."""

    data: Path
    name: str = "n1"
    options: tuple[str, ...] = ()
    listen: str = "127.0.0.1:0"
    http: str = "127.0.0.1:0"
    process: "subprocess.Popen[str] | None" = field(default=None, repr=False)

    def command(self, *more: str) -> list[str]:
        own = ["--name", self.name, "--data", str(self.data), "--listen", self.listen, "--http", self.http]
        return [*COMMAND, "node", "start", *own, *self.options, *more]

    def start(self, *more: str) -> "ServedNode":
        """Start the process, and return when it says that it serves."""
        process = subprocess.Popen(
            self.command("--json", *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        # The line comes when it serves; the end of the pipe when it does not.
        said = select.poll()
        said.register(process.stdout, select.POLLIN)
        ready = said.poll(START_S_MAX * 1000)
        line = process.stdout.readline() if ready else ""
        if not line:
            process.kill()
            _, talk = process.communicate()
            raise AssertionError(f"the node did not start: {talk}")
        told = json.loads(line)
        assert json.loads((self.data / "node.json").read_text()) == told
        self.listen, self.http, self.process = told["listen"], told["http"], process
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ended(self) -> tuple[int, str]:
        """Wait for the process and return its exit status and what it said."""
        assert self.process is not None
        _, talk = self.process.communicate(timeout=STOP_S_MAX)
        status, self.process = self.process.returncode, None
        return status, talk

    def stop(self) -> tuple[int, str]:
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        status, _ = self.ended()
        assert status == -signal.SIGKILL

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def mcr_command(
    *arguments: str, cluster: str = "", timeout_s: float = 60
) -> "subprocess.CompletedProcess[str]":
    """Run `mcr` in a process of its own."""
    environment = os.environ | ({"MCR_CLUSTER": cluster} if cluster else {})
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
    )


def bytes_from(seed: int, length: int) -> bytes:
    """Return bytes that no encoding shortens, and that are the same for the same seed."""
    return np.random.default_rng(seed).bytes(length)
