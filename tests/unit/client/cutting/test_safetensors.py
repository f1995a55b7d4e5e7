"""Laws of reading safetensors headers."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from mcr.cutting import safetensors
from mcr.cutting.ranges import Reader
from mcr.cutting.spans import bytes_plan
from tests.unit.client.cutting import samples

ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def test_file_of_the_reference_writer_is_understood() -> None:
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones((4,), np.float16),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 5), np.float32),
    }
    data = save(arrays, metadata={"step": "100"})

    plan = samples.plan(data)

    assert plan.format == "safetensors"
    found = samples.found(plan, data)
    assert {name: array.data for name, array in found.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    assert found["weight"].shape == (2, 3)
    assert found["weight"].dtype == "F32"
    assert found["scalar"].shape == ()
    assert found["empty"].shape == (0, 5)


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 17]},
        {"data_offsets": [0, 12]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [4, 20]},
        {"data_offsets": [0]},
        {"data_offsets": [-16, 0]},
        {"data_offsets": "0, 16"},
        {"shape": [2, 3]},
        {"shape": [2, 2.0]},
        {"shape": [True, 4]},
        {"shape": [1 << 63, 0]},
        {"shape": [1] * 100},
        {"shape": None},
        {"dtype": 3},
        {"dtype": "F64"},
    ],
)
def test_entry_that_cannot_be_true_makes_the_file_plain_bytes(change: dict[str, object]) -> None:
    data = samples.safetensors_header({"w": ENTRY | change}, bytes(16))

    assert samples.plan(data, "model.safetensors") == bytes_plan(len(data))


@pytest.mark.parametrize(
    "header",
    [b'{"w"', b"[1]", b"{}}", b'{"w": 3}', b"{\xff}", b'{"w":' + b"[" * 100_000, b'{"w":' + b"1" * 9999],
)
def test_header_that_is_no_header_makes_the_file_plain_bytes(header: bytes) -> None:
    data = samples.safetensors_header(header, bytes(16))

    assert samples.plan(data, "model.safetensors") == bytes_plan(len(data))


def test_overlapping_tensors_make_the_file_plain_bytes() -> None:
    data = samples.safetensors_header({"a": ENTRY, "b": ENTRY | {"data_offsets": [8, 24]}}, bytes(24))

    assert samples.plan(data) == bytes_plan(len(data))


def test_header_longer_than_the_limit_is_not_read() -> None:
    data = samples.safetensors_header({"w": ENTRY}, bytes(16))
    reads: list[int] = []

    def read_at(offset: int, length: int) -> bytes:
        reads.append(length)
        return (data[offset : offset + length] if offset else b"\xff\xff\xff\xff\0\0\0\0{").ljust(length)

    reader = Reader(read_at, 1 << 40)

    assert not safetensors.looks_like(reader)
    assert sum(reads) < 10_000


def test_holes_and_types_of_later_releases_are_accepted() -> None:
    header = {
        "later": {"dtype": "F2_NEW", "shape": [100], "data_offsets": [0, 25]},
        "packed": {"dtype": "F4", "shape": [3, 2], "data_offsets": [32, 35]},
    }
    data = samples.safetensors_header(header, bytes(40))

    assert [(span.name, span.dtype, span.length_bytes) for span in samples.plan(data).tensors] == [
        ("later", "F2_NEW", 25),
        ("packed", "F4", 3),
    ]


def test_name_that_has_no_utf8_form_is_replaced() -> None:
    header = json.dumps({"\ud800": ENTRY}).encode()
    data = samples.safetensors_header(header, bytes(16))

    assert [span.name for span in samples.plan(data).tensors] == ["?"]
