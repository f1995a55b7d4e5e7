"""The main job in one go: three nodes keep versions of a model, lose their leader, and go on.

Run by `make demo`. The nodes are processes on loopback with their data in a temporary folder; both are
gone at the end, also when it is interrupted.
"""

import hashlib
import json
import signal
import struct
import sys
from array import array
from pathlib import Path
from random import Random
from types import FrameType

import mcr
from mcr.testing import LocalCluster

MODEL = "vision/demo"
FILES = ("model.safetensors", "config.json")


def say(text: str) -> None:
    """Print one line of the story."""
    sys.stdout.write(text + "\n")


def write_checkpoint(folder: Path, *, seed: int, changed_layer: int) -> None:
    """Write a small transformer in safetensors; versions differ in one layer."""
    folder.mkdir(parents=True, exist_ok=True)
    header: dict[str, object] = {}
    bodies: list[bytes] = []
    offset = 0
    for layer in range(8):
        draw = Random(seed if layer == changed_layer else layer)  # noqa: S311 - weights, not secrets
        body = array("f", (draw.gauss(0, 0.02) for _ in range(256 * 256))).tobytes()
        name = f"layers.{layer}.weight"
        header[name] = {"dtype": "F32", "shape": [256, 256], "data_offsets": [offset, offset + len(body)]}
        bodies.append(body)
        offset += len(body)
    head = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.writelines(bodies)
    (folder / "config.json").write_text(json.dumps({"layers": 8, "hidden": 256, "seed": seed}))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differing(made: Path, source: Path) -> list[str]:
    """Return the files that are not what was committed, bit for bit."""
    return [name for name in FILES if digest(made / name) != digest(source / name)]


def main() -> int:
    """Tell the story and return an exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with LocalCluster(nodes=3) as cluster:
        return tell(cluster)


def _end(number: int, _frame: FrameType | None) -> None:
    # Ends the with block, which ends the nodes and removes their data.
    raise SystemExit(128 + number)


def fetched_bytes(cluster: LocalCluster, i: int, version: str, folder: Path) -> int:
    """Check a version out from one node; return how much of it that node fetched from others meanwhile."""
    with cluster.connect(i) as client:
        before = client.status()
        client.model(MODEL).checkout(version, folder)
        after = client.status()
    return after.bytes_fetched_near - before.bytes_fetched_near


def tell(cluster: LocalCluster) -> int:
    """Do the work on a running cluster."""
    root = cluster.folder
    write_checkpoint(root / "epoch1", seed=1, changed_layer=-1)
    write_checkpoint(root / "epoch2", seed=102, changed_layer=5)
    write_checkpoint(root / "epoch3", seed=103, changed_layer=2)
    leader = cluster.leader()
    others = [i for i in range(3) if i != leader]
    names = [node.name for node in cluster.nodes]
    say(f"1. three nodes run, as processes {', '.join(str(node.pid) for node in cluster.nodes)}")
    say(f"   they chose {names[leader]} to lead")

    with cluster.connect(leader) as client:
        first = client.model(MODEL).commit(root / "epoch1", message="epoch 1", params={"lr": 1e-4})
    say(f"2. {first.reference} committed through {names[leader]}: {first.chunks_new} chunks, all new")
    with cluster.connect(others[0]) as client:
        model = client.model(MODEL)
        second = model.commit(root / "epoch2", message="epoch 2", expect=first.name)
        say(
            f"3. {second.reference} committed through {names[others[0]]}: "
            f"{second.chunks_new} of {second.chunks_total} chunks were new to that node"
        )
        model.channel("production").set(first.name, reason="baseline")
        model.channel("production").set(second.name, reason="better on the test set")
        say(f"4. channel production was moved to {first.name}, then to {second.name}")

    cluster.kill(leader)
    say(f"5. {names[leader]}, the leader, was killed with SIGKILL")
    fetched = fetched_bytes(cluster, others[1], first.name, root / "out-of-peers")
    if wrong := differing(root / "out-of-peers", root / "epoch1"):
        say(f"   checked out from {names[others[1]]}, {', '.join(wrong)} of {first.name} differs")
        return 1
    taken = (
        f"{first.name}, which {names[leader]} had taken, was checked out from {names[others[1]]}: bit-exact"
    )
    say(f"6. {taken};\n   {fetched:,} bytes of it were fetched from a peer, {names[others[0]]}")
    with mcr.connect(cluster.addresses) as client:
        third = client.model(MODEL).commit(root / "epoch3", message="epoch 3", expect=second.name)
        now = client.cluster_status().leader
    say(f"7. {third.reference} committed all the same; {now} leads now")

    with cluster.connect(others[1]) as client:
        model = client.model(MODEL)
        back = model.channel("production").rollback(reason="latency went up")
        through = names[others[1]]
        say(f"8. channel production was rolled back to {back.version} through {through}; every move is kept:")
        for move in model.channel("production").history():
            say(f"     generation {move.generation}: {move.verb} to v{move.number} ({move.reason})")

    cluster.start(leader)
    cluster.wait_ready()
    say(f"9. {names[leader]} was started again and has caught up")
    with cluster.connect(leader) as client:
        model = client.model(MODEL)
        for ref, source in (("channel:production", "epoch1"), ("v2", "epoch2"), ("v3", "epoch3")):
            made = root / f"out-{source}"
            model.checkout(ref, made, verify=True)
            if wrong := differing(made, root / source):
                differing_files = ", ".join(wrong)
                say(f"   checked out from {names[leader]}, {differing_files} of {ref} differs")
                return 1
    say(f"10. all three versions were checked out from {names[leader]}: bit-exact")
    for i in range(3):
        cluster.stop(i)
    say("done: all nodes were stopped, and nothing is left behind")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
