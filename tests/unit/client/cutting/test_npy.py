"""Laws of reading NumPy's files."""

import io

import numpy as np
import pytest

from mcr.cutting.spans import bytes_plan
from tests.unit.client.cutting import samples


def saved(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        ("<f4", "F32"),
        ("<f2", "F16"),
        ("<f8", "F64"),
        ("<i8", "I64"),
        ("<i4", "I32"),
        ("<i2", "I16"),
        ("|i1", "I8"),
        ("|u1", "U8"),
        ("<u2", "U16"),
        ("|b1", "BOOL"),
        ("<c8", "C64"),
        ("<c16", "C128"),
        (">f4", ">f4"),
        ("<U3", "<U3"),
        ("|S5", "|S5"),
        ("|V2", "|V2"),
    ],
)
def test_array_that_numpy_saved_is_understood(code: str, dtype: str) -> None:
    array = np.zeros((3, 4), code)
    data = saved(array)

    plan = samples.plan(data)

    assert plan.format == "npy"
    assert samples.found(plan, data) == {"array": samples.Array(array.tobytes(), (3, 4), dtype)}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("fortran_order", [False, True])
def test_all_versions_and_orders_are_understood(version: int, *, fortran_order: bool) -> None:
    array = samples.arrays()["layer.bias"]
    data = samples.npy(array, version, fortran_order=fortran_order)

    assert samples.found(samples.plan(data), data) == {"array": array}


def test_an_array_stored_by_columns_is_not_taken_for_one_stored_by_rows() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)

    by_columns = samples.plan(saved(np.asfortranarray(rows))).tensors[0]

    assert (by_columns.dtype, by_columns.shape, by_columns.length_bytes) == ("fortran:F32", (2, 3), 24)


@pytest.mark.parametrize("shape", [(), (5,), (0, 3)])
def test_scalars_rows_and_empty_arrays_are_understood(shape: tuple[int, ...]) -> None:
    data = saved(np.ones(shape, np.float32))

    assert [(span.shape, span.dtype) for span in samples.plan(data).tensors] == [(shape, "F32")]


@pytest.mark.parametrize(
    "data",
    [
        saved(np.array([{"pickled": 1}], dtype=object)),
        saved(np.zeros(3, dtype=[("a", "<f4"), ("b", "<i4")])),
        samples.npy_text("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n", bytes(15)),
        samples.npy_text("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999,), }\n", bytes(15)),
        samples.npy_text("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }\n", bytes(16)),
        samples.npy_text("{'descr': '<f4', 'fortran_order': False, 'shape': (1 2,), }\n", bytes(16)),
        samples.npy_text(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1,) * 70}, }}\n", bytes(16)),
        samples.npy_text("{'descr': '<f4', 'shape': (4,), }\n", bytes(16)),
        samples.npy_text("{'descr': '|O', 'fortran_order': False, 'shape': (4,), }\n", bytes(16)),
        samples.npy_text("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n", bytes(16), version=9),
        samples.npy_text("{'descr': '<f4'".ljust(70_000), bytes(16), version=2),
    ],
)
def test_what_is_no_plain_array_is_plain_bytes(data: bytes) -> None:
    assert samples.plan(data, "array.npy") == bytes_plan(len(data))


def test_arrays_of_a_zip_that_numpy_saved_are_understood() -> None:
    out = io.BytesIO()
    np.savez(out, weight=np.ones((4, 4), np.float32), bias=np.zeros(4, np.int64))
    data = out.getvalue()

    plan = samples.plan(data)

    assert plan.format == "npz"
    assert {name: (array.shape, array.dtype) for name, array in samples.found(plan, data).items()} == {
        "weight": ((4, 4), "F32"),
        "bias": ((4,), "I64"),
    }
    assert samples.found(plan, data)["weight"].data == np.ones((4, 4), np.float32).tobytes()


def test_compressed_arrays_and_objects_stay_between_the_tensors() -> None:
    arrays = samples.arrays()
    members = {f"{name}.npy": samples.npy(array) for name, array in arrays.items()}
    members |= {"objects.npy": saved(np.array([None], dtype=object)), "note.txt": b"text"}
    data = samples.zip_of(members, compressed=["embed.weight.npy"])

    plan = samples.plan(data)

    assert plan.format == "npz"
    assert samples.found(plan, data) == {name: arrays[name] for name in arrays if name != "embed.weight"}


def test_zip_file_without_arrays_is_plain_bytes() -> None:
    data = samples.zip_of({"readme.txt": b"text", "data/0": bytes(100)})

    assert samples.plan(data, "arrays.npz") == bytes_plan(len(data))
