"""A node whose disk is full refuses uploads before the reserve is touched, and goes on with all the rest."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcr_node.storage.chunk_store import RESERVE_BYTES
from tests.support.served import ServedNode, bytes_from, mcr_command

DISK_MIB = 256
LENGTH_BYTES = 16 << 20
# Log and state go on; they need little.
LOG_BYTES_MAX = 24 << 20
MODEL = "full/net"

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root"), pytest.mark.slow]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(mount)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_a_full_node_serves_rolls_back_and_logs_but_takes_no_bytes(disk: Path, tmp_path: Path) -> None:
    node = ServedNode(disk / "node").start("--bootstrap")
    source = tmp_path / "in"
    source.mkdir()

    def commit(seed: int, *words: str) -> int:
        (source / "weights.bin").write_bytes(bytes_from(seed, LENGTH_BYTES))
        return mcr_command(
            "commit", MODEL, str(source), "-m", "x", *words, cluster=node.listen, timeout_s=120
        ).returncode

    def told(*words: str) -> subprocess.CompletedProcess[str]:
        return mcr_command(*words, cluster=node.listen, timeout_s=120)

    try:
        # given
        seed = 1
        while (status := commit(seed)) == 0:
            seed += 1
            assert seed * LENGTH_BYTES < DISK_MIB << 20
        assert status == 14
        assert seed > 3

        # then
        assert free_bytes(disk) >= RESERVE_BYTES - LOG_BYTES_MAX
        (member,) = json.loads(told("cluster", "status", "--json").stdout)["members"]
        assert member["bytes_free"] < LENGTH_BYTES
        assert member["bytes_used"] > LENGTH_BYTES
        for number in (1, 2):
            assert told("channel", MODEL, "production", "--set", f"{MODEL}@v{number}").returncode == 0
        back = told("rollback", MODEL, "--channel", "production", "--reason", "p99 up")
        assert back.returncode == 0, back.stderr
        assert told("rollback", MODEL, "--to", "v1").returncode == 0
        # Its bytes are there already.
        assert commit(1, "-p", "again=1") == 0
        assert told("checkout", f"{MODEL}@v2", str(tmp_path / "out")).returncode == 0
        assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(2, LENGTH_BYTES)
        assert commit(seed) == 14
    finally:
        node.close()
