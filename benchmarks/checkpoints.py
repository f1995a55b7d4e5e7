"""Synthetic checkpoints of any size, the same for the same seed.

A Llama-like transformer in bfloat16, one safetensors file. The weights are Gaussian, scaled as at
initialisation, so they compress as badly as real ones. The next version is made as fine-tuning makes it: some
tensors change, and in these most weights keep their bits. Shares are those of a real AdamW fine-tune (MiniLM,
bfloat16) after ten steps: 84 % equal, 12 % off by one unit in the last place, the rest further away.

    python -m benchmarks.checkpoints FOLDER --size-mib 1024

writes `first/model.safetensors` and `changed/model.safetensors` there. Memory stays at a few MiB.
"""

import argparse
import json
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

MIB = 1024 * 1024
ELEMENT_BYTES = 2
PIECE_ELEMENTS = MIB
HEADER_ALIGNMENT_BYTES = 8
SIZE_BYTES_MIN = 1 * MIB

HEAD_SIZE = 16
VOCABULARY_PER_HIDDEN = 8
KEY_VALUE_SHARE = 4

EQUAL_SHARE = 0.84
ONE_ULP_SHARE = 0.12
FAR_ULP_MAX = 64
FILE_NAME = "model.safetensors"


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor to write: its name, shape and place in the data."""

    name: str
    shape: tuple[int, ...]
    offset_bytes: int

    @property
    def element_count(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)

    @property
    def length_bytes(self) -> int:
        """How many bytes it takes."""
        return self.element_count * ELEMENT_BYTES


def plan(size_bytes: int) -> list[TensorPlan]:
    """Return the tensors of a model of about `size_bytes` (within 1 %, from 1 MiB), in file order.

    Depth and width grow together; the vocabulary takes what is left over.
    """
    if size_bytes < SIZE_BYTES_MIN:
        raise ValueError(f"a checkpoint has at least {SIZE_BYTES_MIN} bytes, not {size_bytes}")
    layers = 16 if size_bytes >= 256 * MIB else 8 if size_bytes >= 32 * MIB else 4
    hidden = HEAD_SIZE
    while (
        _layout_bytes(hidden + HEAD_SIZE, layers, VOCABULARY_PER_HIDDEN * (hidden + HEAD_SIZE)) <= size_bytes
    ):
        hidden += HEAD_SIZE
    vocabulary = VOCABULARY_PER_HIDDEN * hidden
    spare_bytes = size_bytes - _layout_bytes(hidden, layers, vocabulary)
    # Embedding and head both have a row of `hidden` weights for each word.
    vocabulary += spare_bytes // (2 * hidden * ELEMENT_BYTES)
    plans, offset_bytes = [], 0
    for name, shape in _layout(hidden, layers, vocabulary):
        plans.append(TensorPlan(name, shape, offset_bytes))
        offset_bytes += plans[-1].length_bytes
    return plans


def _layout(hidden: int, layers: int, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    intermediate = math.ceil(hidden * 8 / 3 / HEAD_SIZE) * HEAD_SIZE
    key_value = max(HEAD_SIZE, hidden // KEY_VALUE_SHARE)
    yield "lm_head.weight", (vocabulary, hidden)
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, intermediate)
        yield f"{prefix}.mlp.gate_proj.weight", (intermediate, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (intermediate, hidden)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attn.k_proj.weight", (key_value, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}.self_attn.q_proj.weight", (hidden, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (key_value, hidden)
    yield "model.norm.weight", (hidden,)


def _layout_bytes(hidden: int, layers: int, vocabulary: int) -> int:
    return sum(math.prod(shape) for _, shape in _layout(hidden, layers, vocabulary)) * ELEMENT_BYTES


def header(plans: list[TensorPlan]) -> bytes:
    """Return the head of the safetensors file: length, JSON, padding."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for tensor in plans:
        end_bytes = tensor.offset_bytes + tensor.length_bytes
        entries[tensor.name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [tensor.offset_bytes, end_bytes],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


def write_first(path: Path, size_bytes: int, *, seed: int = 0) -> None:
    """Write a checkpoint of about `size_bytes` to `path`."""
    plans = plan(size_bytes)
    with path.open("wb") as out:
        out.write(header(plans))
        for position, tensor in enumerate(plans):
            generator = np.random.Generator(np.random.PCG64([seed, position]))
            scale = 0.0 if len(tensor.shape) == 1 else tensor.shape[-1] ** -0.5
            for count in _pieces(tensor.element_count):
                out.write(_initial(generator, count, scale).tobytes())


def write_changed(base: Path, path: Path, *, share: float = 0.05, seed: int = 1) -> list[str]:
    """Write the checkpoint that follows `base`: about `share` of its bytes lie in tensors that change.

    Returns:
        The names of the tensors that change, in file order.
    """
    with base.open("rb") as source, path.open("wb") as out:
        plans = read_plans(source)
        changed = choose(plans, share=share, seed=seed)
        out.write(header(plans))
        for position, tensor in enumerate(plans):
            generator = np.random.Generator(np.random.PCG64([seed, position]))
            for count in _pieces(tensor.element_count):
                bits = np.frombuffer(source.read(count * ELEMENT_BYTES), np.uint16)
                out.write((_trained(generator, bits) if tensor.name in changed else bits).tobytes())
    return [tensor.name for tensor in plans if tensor.name in changed]


def read_plans(source: BinaryIO) -> list[TensorPlan]:
    """Read the head of a file that `write_first` wrote, and leave `source` at the first weight."""
    length_bytes = int.from_bytes(source.read(8), "little")
    entries = json.loads(source.read(length_bytes))
    entries.pop("__metadata__")
    return [
        TensorPlan(name, tuple(entry["shape"]), entry["data_offsets"][0])
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"][0])
    ]


def choose(plans: list[TensorPlan], *, share: float, seed: int) -> set[str]:
    """Choose tensors that hold `share` of the bytes, or a little less: those of the last layers first.

    Fine-tuning moves the last layers most. In the one that fits only in part the choice is drawn. No tensor
    of an earlier layer is added to use up the rest: a few bytes changed all over the file would flatter a
    store that cuts at tensor borders.
    """
    budget_bytes = round(share * sum(tensor.length_bytes for tensor in plans))
    layers: dict[int, list[TensorPlan]] = {}
    for tensor in plans:
        if tensor.name.startswith("model.layers."):
            layers.setdefault(int(tensor.name.split(".")[2]), []).append(tensor)
    draw = random.Random(seed)
    chosen: set[str] = set()
    for layer in sorted(layers, reverse=True):
        members = layers[layer]
        draw.shuffle(members)
        fitting = []
        for tensor in members:
            if tensor.length_bytes <= budget_bytes:
                fitting.append(tensor.name)
                budget_bytes -= tensor.length_bytes
        chosen.update(fitting)
        if len(fitting) < len(members):
            break
    return chosen


def _pieces(element_count: int) -> Iterator[int]:
    for start in range(0, element_count, PIECE_ELEMENTS):
        yield min(PIECE_ELEMENTS, element_count - start)


def _initial(generator: np.random.Generator, count: int, scale: float) -> NDArray[np.uint16]:
    """Return bfloat16 bits of Gaussian weights, or of ones for a norm's gains (`scale` 0)."""
    if scale == 0.0:
        return np.full(count, 0x3F80, np.uint16)
    values = generator.standard_normal(count, np.float32)
    values *= np.float32(scale)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _trained(generator: np.random.Generator, bits: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return `bits` after some steps of training: most equal, some one ulp away, few further."""
    draw = generator.random(bits.size, np.float32)
    distance = np.zeros(bits.size, np.int32)
    moved = draw >= EQUAL_SHARE
    distance[moved] = 1
    far = draw >= EQUAL_SHARE + ONE_ULP_SHARE
    distance[far] = generator.integers(2, FAR_ULP_MAX, int(np.count_nonzero(far)), np.int32)
    distance *= 1 - 2 * generator.integers(0, 2, bits.size, np.int32)
    # The magnitude is clipped below infinity; the sign bit stays.
    magnitude = np.clip((bits & 0x7FFF).astype(np.int32) + distance, 0, 0x7F7F)
    trained: NDArray[np.uint16] = magnitude.astype(np.uint16) | (bits & np.uint16(0x8000))
    return trained


def main() -> None:
    """Write both versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--share", type=float, default=0.05, help="of the bytes, in tensors that change")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    first, changed = options.folder / "first", options.folder / "changed"
    for folder in (first, changed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    write_first(first / FILE_NAME, options.size_mib * MIB, seed=options.seed)
    names = write_changed(first / FILE_NAME, changed / FILE_NAME, share=options.share, seed=options.seed + 1)
    size_bytes = (first / FILE_NAME).stat().st_size
    print(
        json.dumps({"size_bytes": size_bytes, "tensors": len(plan(options.size_mib * MIB)), "changed": names})
    )


if __name__ == "__main__":
    main()
