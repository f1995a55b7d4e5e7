"""`mcr watch` as a process: killed again and again while a training writes, it commits all, each once."""

import json
import random
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mcr.testing import LocalCluster
from tests.support.served import COMMAND, mcr_command
from tests.support.waiting import until

pytestmark = pytest.mark.slow

MODEL = "vision/net"
PATIENCE_S = 60.0


def start(cluster: str, folder: Path, *options: str) -> "subprocess.Popen[str]":
    command = ["watch", str(folder), MODEL, "--cluster", cluster, "--each", "checkpoint-*", "--json"]
    fast = ["--quiet-for", "1s", *options]
    return subprocess.Popen(
        [*COMMAND, *command, *fast], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def write(folder: Path, step: int) -> None:
    """Write a checkpoint as slow disks do: half of it is there for a while."""
    where = folder / f"checkpoint-{step}"
    save_file({"w": np.full(50_000, step, np.float32)}, folder / "whole.tmp")
    whole = (folder / "whole.tmp").read_bytes()
    where.mkdir()
    with (where / "model.safetensors").open("wb", buffering=0) as file:
        file.write(whole[: len(whole) // 2])
        (where / "metrics.json").write_text(json.dumps({"loss": 1 / step, "step": step}))
        file.write(whole[len(whole) // 2 :])


def test_killed_at_any_moment_each_checkpoint_is_one_version(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    chance = random.Random(3)
    with LocalCluster(nodes=1, heartbeat_ms=50, election_ms=500) as cluster, cluster.connect() as client:
        model = client.model(MODEL)
        options = ("--metrics", "metrics.json", "--keep", "2")
        for step in range(1, 6):
            write(folder, step)
            process = start(cluster.addresses, folder, *options)
            assert process.stdout is not None
            if chance.random() < 0.5:
                # It says so right after the commit; or is killed wherever it is while the commit appears.
                process.stdout.readline()
            else:
                until(lambda step=step: len(model.log(limit=99)) >= step - 1, PATIENCE_S)  # type: ignore[misc]
            process.kill()
            process.wait()
            process.stdout.close()
        process = start(cluster.addresses, folder, *options)
        until(lambda: len(model.log(limit=99)) == 5, PATIENCE_S)
        until(lambda: len(list(folder.glob("checkpoint-*"))) == 2, PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert {json.loads(line)["event"] for line in out.splitlines()} <= {
            "committed",
            "removed",
            "incomplete",
        }
        versions = list(reversed(model.log(limit=99)))
        assert [version.description for version in versions] == [f"auto: checkpoint-{n}" for n in range(1, 6)]
        for version in versions:
            found = model.tensor(version.name, "w")
            assert (found == version.number).all()
            assert model.show(version.name).metrics == {
                "loss": 1 / version.number,
                "step": float(version.number),
            }
        again = mcr_command(
            "watch", str(folder), MODEL, "--each", "checkpoint-*", "--once", "--quiet-for", "0s",
            cluster=cluster.addresses,
        )  # fmt: skip
        assert (again.returncode, again.stdout) == (0, "")
        assert len(model.log(limit=99)) == 5


def test_exit_statuses_of_a_watcher(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    assert mcr_command("init", store).returncode == 0

    def status(*arguments: str) -> int:
        return mcr_command("watch", *arguments, "--once", "--quiet-for", "0s", cluster=store).returncode

    folder = tmp_path / "out"
    assert status(str(folder), MODEL) == 3
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    assert status(str(folder), MODEL) == 1
    (folder / "model.safetensors").unlink()
    (folder / "weights").write_text("whole")
    assert status(str(folder), MODEL, "--keep", "1") == 2
    assert status(str(folder), MODEL, "--when-improved", "loss:min") == 2
    assert status(str(folder), MODEL, "--when-improved", "loss", "--metrics", "m.json") == 2
    assert status(str(folder), MODEL, "--every", "soon") == 2
    assert status(str(folder), MODEL, "--every", "10", "--every", "1h", "--when-changed") == 0
    assert status(str(folder), MODEL) == 0
