"""The main job in one go: keep versions of a model, deploy one, roll back, get the bytes back exactly.

Run by `make demo`. Uses a store in a temporary folder and leaves nothing behind.
"""

import hashlib
import json
import struct
import sys
import tempfile
from array import array
from pathlib import Path
from random import Random

import mcr


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


def main() -> int:
    """Tell the story and return an exit status."""
    with tempfile.TemporaryDirectory(prefix="mcr-demo-") as scratch:
        root = Path(scratch)
        mcr.init(root / "store")
        with mcr.connect(root / "store") as client:
            say("1. a store was made; it is a cluster of one node, in this process")
            model = client.model("vision/demo")
            write_checkpoint(root / "epoch1", seed=1, changed_layer=-1)
            write_checkpoint(root / "epoch2", seed=102, changed_layer=5)
            first = model.commit(root / "epoch1", message="epoch 1", params={"lr": 1e-4})
            say(f"2. {first.reference} committed: {first.chunks_new} chunks, {first.bytes_sent:,} bytes")
            second = model.commit(root / "epoch2", message="epoch 2", expect=first.name)
            say(
                f"3. {second.reference} committed: one layer changed, so only {second.chunks_new} of "
                f"{second.chunks_total} chunks were new"
            )
            production = model.channel("production")
            production.set(first.name, reason="baseline")
            production.set(second.name, reason="better on the test set")
            say(f"4. channel production is at {production.get().version}")
            try:
                model.commit(root / "epoch1", message="late", expect=first.name)
            except mcr.errors.HeadMovedError as error:
                say(f"5. a late writer was told: {error.message}")
            back = production.rollback(reason="latency went up")
            say(f"6. channel production was rolled back to {back.version}; every move is kept:")
            for move in production.history():
                say(f"     generation {move.generation}: {move.verb} to v{move.number} ({move.reason})")
        with mcr.connect(root / "store") as client:
            model = client.model("vision/demo")
            model.checkout("channel:production", root / "out", verify=True)
            model.checkout("v2", root / "out2", verify=True)
            for made, source in (("out", "epoch1"), ("out2", "epoch2")):
                for name in ("model.safetensors", "config.json"):
                    if digest(root / made / name) != digest(root / source / name):
                        say(f"   {made}/{name} differs from what was committed")
                        return 1
            say("7. the store was closed and opened again; both versions came back bit-exact")
        say("done; nothing was left behind")
        return 0


if __name__ == "__main__":
    sys.exit(main())
