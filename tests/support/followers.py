"""`mcr follow` as processes, and what they say, line by line."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self

from tests.support.served import COMMAND

# A wait that should never be this long; a loaded machine has room.
PATIENCE_S = 60.0


class FollowerProcess:
    """One follower of a channel: a context manager, which ends it by SIGKILL if need be."""

    def __init__(self, cluster: str, reference: str, destination: Path, *options: str) -> None:
        self.destination = destination
        self.records: list[dict[str, Any]] = []
        self._said = threading.Condition()
        self._talk = destination.with_name(destination.name + ".talk").open("ab")
        self.process = subprocess.Popen(
            [*COMMAND, "follow", reference, str(destination), "--json", "--cluster", cluster, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._talk,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            record = json.loads(line)
            with self._said:
                self.records.append(record)
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.ended()

    def until(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a line."""

        def found() -> list[dict[str, Any]]:
            return [record for record in self.records if fits(record)]

        with self._said:
            done = self._said.wait_for(lambda: bool(found()) or not self._reader.is_alive(), PATIENCE_S)
            assert done, f"nothing such among {self.records}; {self.talk()}"
            assert found(), f"it ended: {self.records}; {self.talk()}"
            return found()[0]

    def until_one_of(self, events: Collection[str]) -> dict[str, Any]:
        """Wait for any of these to happen."""
        return self.until(lambda each: each["event"] in events)

    def until_loaded(self, generation: int) -> dict[str, Any]:
        """Wait until a move of the channel, or a later one, is followed."""
        return self.until(lambda each: each["event"] == "loaded" and each["generation"] >= generation)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal, and return the exit status."""
        os.kill(self.process.pid, number)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end, and return the exit status."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._talk.close()
        return status

    def talk(self) -> str:
        """Return what it said on stderr."""
        return Path(self._talk.name).read_text()[-4000:]
