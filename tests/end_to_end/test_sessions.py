"""One version from many processes through many nodes, one of which is killed meanwhile."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcr.errors import SessionIncompleteError
from mcr.model import MIB
from mcr.testing import LocalCluster
from tests.support.served import bytes_from

MODEL = "vision/net"
RANKS = 6
NAMES = [f"rank{number}.bin" for number in range(RANKS)]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3, heartbeat_ms=50, election_ms=500) as found:
        yield found


def start(cluster: LocalCluster, first: int, *words: str) -> subprocess.Popen[str]:
    """Run `mcr session` with all nodes as addresses, one of them first."""
    addresses = [node.address for node in cluster.nodes]
    at = ",".join(addresses[first:] + addresses[:first])
    return subprocess.Popen(
        [sys.executable, "-m", "mcr.cli.main", "--cluster", at, "--json", "session", MODEL, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_many_processes_through_many_nodes_make_one_version_though_a_node_dies(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(bytes_from(number, 4 * MIB))
    begun = [start(cluster, number % 3, "begin", "step", "-m", "step 1000") for number in range(3)]
    assert {finish(process)["session"] for process in begun} == {"step"}
    for number in range(3):
        finish(start(cluster, number, "put", "step", str(tmp_path / NAMES[number])))
    with cluster.connect() as client:
        session = client.model(MODEL).session("step")
        with pytest.raises(SessionIncompleteError, match=r"missing: rank3\.bin, rank4\.bin, rank5\.bin"):
            session.seal(expected=NAMES)

    # What it took stays: a part is on two nodes when it was put.
    leader = cluster.leader()
    writers = [
        start(cluster, number % 3, "put", "step", str(tmp_path / NAMES[number])) for number in range(3, RANKS)
    ]
    cluster.kill(leader)
    for process in writers:
        assert finish(process)["file_count"] == 1
    sealed = [start(cluster, number, "seal", "step", *NAMES, "--wait", "30") for number in range(3)]
    found = [finish(process) for process in sealed]

    assert {each["id"] for each in found} == {found[0]["id"]}
    with cluster.connect() as client:
        model = client.model(MODEL)
        assert [version.number for version in model.log()] == [1]
        model.checkout("main", tmp_path / "out")
        assert model.sessions() == []
    for name in NAMES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
