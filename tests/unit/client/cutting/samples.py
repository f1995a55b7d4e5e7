"""Small model files of every format, written byte by byte, and the pseudo-random bytes to fill them."""

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcr import cutting
from mcr.cutting import CutPlan, Piece

MASK_64 = (1 << 64) - 1


def noise(length_bytes: int, seed: int) -> bytes:
    """Return bytes of xorshift64* (Vigna 2016, §3): the same for ever, on every machine."""
    state = (seed * 0x9E3779B97F4A7C15 + 1) & MASK_64
    out: list[int] = []
    for _ in range(-(-length_bytes // 8)):
        state ^= state >> 12
        state = (state ^ (state << 25)) & MASK_64
        state ^= state >> 27
        out.append((state * 0x2545F4914F6CDD1D) & MASK_64)
    return struct.pack(f"<{len(out)}Q", *out)[:length_bytes]


@dataclass(frozen=True)
class Array:
    """One tensor of a sample: F32 unless said otherwise."""

    data: bytes
    shape: tuple[int, ...]
    dtype: str = "F32"


def arrays() -> dict[str, Array]:
    """Return a handful of tensors: larger than a block, small, of other types."""
    return {
        "embed.weight": Array(noise(1 << 12, 1), (32, 32)),
        "layer.weight": Array(noise(640, 2), (16, 20), "F16"),
        "layer.bias": Array(noise(64, 3), (16,)),
        "step": Array(noise(80, 4), (10,), "I64"),
    }


def reading(data: bytes) -> cutting.ReadAt:
    return lambda offset, length: data[offset : offset + length]


def plan(data: bytes, name: str = "file.bin") -> CutPlan:
    return cutting.plan(reading(data), len(data), name)


def cut(cut_plan: CutPlan, data: bytes, window_bytes: int = cutting.WINDOW_BYTES) -> list[Piece]:
    """Cut a whole file as a caller does, window by window."""
    view, offset, pieces = memoryview(data), 0, list[Piece]()
    while offset < len(data):
        window = view[offset : offset + window_bytes]
        is_last = offset + len(window) == len(data)
        pieces += cutting.cut_window(cut_plan, offset, window, is_last=is_last)
        offset = pieces[-1].offset_bytes + pieces[-1].length_bytes
    return pieces


def found(cut_plan: CutPlan, data: bytes) -> dict[str, Array]:
    """Return what a plan says about a file, in the form the samples are made from."""
    return {
        span.name: Array(
            data[span.offset_bytes : span.offset_bytes + span.length_bytes], span.shape, span.dtype
        )
        for span in cut_plan.tensors
    }


# safetensors


def safetensors_header(header: Mapping[str, object] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, array in tensors.items():
        end = offset + len(array.data)
        header[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    return safetensors_header(header, b"".join(array.data for array in tensors.values()))


# NumPy

NPY_DESCRIPTIONS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "U8": "|u1", "BOOL": "|b1"}


def npy_text(header: str, data: bytes, version: int = 1) -> bytes:
    text = header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes((version, 0)) + length + text + data


def npy(array: Array, version: int = 1, *, fortran_order: bool = False) -> bytes:
    header = {
        "descr": NPY_DESCRIPTIONS[array.dtype],
        "fortran_order": fortran_order,
        "shape": array.shape,
    }
    return npy_text(f"{header!r}".ljust(117) + "\n", array.data, version)


def zip_of(members: Mapping[str, bytes], *, compressed: Sequence[str] = (), align: int = 1) -> bytes:
    """Write a zip file as Python does; `align` pads the local headers as PyTorch does."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            if name in compressed:
                info.compress_type = zipfile.ZIP_DEFLATED
            start = out.tell() + 30 + len(name)
            padding = -(start + 4) % align if align > 1 else 0
            info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding if align > 1 else b""
            archive.writestr(info, data)
    return out.getvalue()


def npz(tensors: Mapping[str, Array], *, compressed: Sequence[str] = ()) -> bytes:
    members = {f"{name}.npy": npy(array) for name, array in tensors.items()}
    return zip_of(members, compressed=[f"{name}.npy" for name in compressed])


def zip64_of(name: str, data: bytes, *, member_count: int = 0xFFFF) -> bytes:
    """Write one member whose directory states sizes and offsets in the zip64 fields only (APPNOTE §4.5.3)."""
    saturated = 0xFFFFFFFF
    text = name.encode()
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 0, 0, len(text), 0) + text
    # Another extra field first: readers must step over it.
    extra = struct.pack("<HHI", 0x5455, 4, 7) + struct.pack("<HHQQQ", 1, 24, len(data), len(data), 0)
    sizes = (saturated, saturated, len(text), len(extra), 0, 0, 0, 0, saturated)
    central = struct.pack("<4s6HI2I5HII", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, 0, *sizes) + text + extra
    directory_at = len(local) + len(data)
    end_64_at = directory_at + len(central)
    end_64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(central), directory_at)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end_64_at, 1)
    end = struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, member_count, member_count, saturated, saturated, 0)
    return local + data + central + end_64 + locator + end


# PyTorch: pickles are assembled from opcodes, as no class of PyTorch is at hand.

TORCH_STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "I64": "LongStorage", "U8": "ByteStorage"}


def pickle_text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def pickle_integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def pickle_tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def pickle_global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def pickle_table(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(pickle_text(key) + value for key, value in items.items()) + b"u"


def pickle_of(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def pickle_storage(key: str, storage_type: str, count: int, module: str = "torch") -> bytes:
    parts = (
        pickle_text("storage"),
        pickle_global(module, storage_type),
        pickle_text(key),
        pickle_text("cpu"),
        pickle_integer(count),
    )
    return pickle_tuple(*parts) + b"Q"


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for extent in reversed(shape):
        strides.insert(0, step)
        step *= extent
    return tuple(strides)


def pickle_tensor(
    storage: bytes, shape: Sequence[int], stride: Sequence[int] | None = None, offset: int = 0
) -> bytes:
    """Write `torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, False, OrderedDict())`."""
    arguments = pickle_tuple(
        storage,
        pickle_integer(offset),
        pickle_tuple(*map(pickle_integer, shape)),
        pickle_tuple(*map(pickle_integer, stride if stride is not None else row_major(shape))),
        b"\x89",
        pickle_global("collections", "OrderedDict") + b")R",
    )
    return pickle_global("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def torch_array(array: Array, key: str) -> bytes:
    count = array_count(array)
    return pickle_tensor(pickle_storage(key, TORCH_STORAGES[array.dtype], count), array.shape)


def array_count(array: Array) -> int:
    count = 1
    for extent in array.shape:
        count *= extent
    return count


def torch_zip(pickle: bytes, storages: Sequence[bytes], **more: bytes) -> bytes:
    members = {"archive/data.pkl": pickle_of(pickle), "archive/byteorder": b"little"}
    members |= {f"archive/data/{key}": data for key, data in enumerate(storages)}
    members |= {f"archive/{name}": data for name, data in more.items()}
    return zip_of(members | {"archive/version": b"3\n"}, align=64)


def torch_checkpoint(tensors: Mapping[str, Array]) -> bytes:
    """Write a plain state dict."""
    named = {name: torch_array(array, str(key)) for key, (name, array) in enumerate(tensors.items())}
    table = pickle_global("collections", "OrderedDict") + b")R" + pickle_table(named)[1:]
    return torch_zip(table, [array.data for array in tensors.values()])


# GGUF

GGUF_TYPES = {"F32": 0, "F16": 1, "Q8_0": 8, "I64": 27, "Q4_K": 12}


def gguf_string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def gguf_raw(
    pairs: Sequence[bytes], rows: Sequence[bytes], data: bytes, *, alignment: int = 32, version: int = 3
) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, len(rows), len(pairs)) + b"".join(pairs) + b"".join(rows)
    return header + bytes(-len(header) % alignment) + data


def gguf_row(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    # The innermost extent stands first.
    extents = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return gguf_string(name.encode()) + extents + struct.pack("<IQ", kind, offset)


def gguf(tensors: Mapping[str, Array], pairs: Sequence[bytes] = (), *, alignment: int = 32) -> bytes:
    rows: list[bytes] = []
    data = b""
    for name, array in tensors.items():
        data += bytes(-len(data) % alignment)
        rows.append(gguf_row(name, array.shape, GGUF_TYPES[array.dtype], len(data)))
        data += array.data
    if alignment != 32:
        pairs = [gguf_string(b"general.alignment") + struct.pack("<II", 4, alignment), *pairs]
    return gguf_raw(pairs, rows, data, alignment=alignment)


# ONNX

ONNX_TYPES = {"F32": 1, "U8": 2, "I64": 7, "F16": 10, "F64": 11}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def proto(number: int, value: int | bytes | str) -> bytes:
    """Write one field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_tensor(array: Array, name: str = "", *, payload: int = 9) -> bytes:
    dims = b"".join(proto(1, extent) for extent in array.shape)
    return dims + proto(2, ONNX_TYPES[array.dtype]) + proto(8, name) + proto(payload, array.data)


def onnx_constant(array: Array, output: str) -> bytes:
    """Write a `Constant` node with an unnamed tensor."""
    attribute = proto(1, "value") + proto(5, onnx_tensor(array)) + proto(20, 4)
    return proto(2, output) + proto(4, "Constant") + proto(5, attribute)


def onnx_branch(name: str, attribute: str, *graphs: bytes, number: int = 6) -> bytes:
    """Write a node that holds subgraphs, as `If` does."""
    inner = proto(1, attribute) + b"".join(proto(number, graph) for graph in graphs)
    return proto(3, name) + proto(4, "If") + proto(5, inner)


def onnx_model(graph: bytes, *more: bytes) -> bytes:
    return proto(1, 8) + proto(2, "sample") + proto(7, graph) + proto(8, proto(2, 18)) + b"".join(more)


def onnx(tensors: Mapping[str, Array]) -> bytes:
    node = proto(1, proto(1, "x") + proto(2, "y") + proto(4, "Identity"))
    initializers = b"".join(proto(5, onnx_tensor(array, name)) for name, array in tensors.items())
    return onnx_model(node + proto(2, "main") + initializers)


def all_formats() -> dict[str, bytes]:
    """Return one valid file of every format, all with the same tensors."""
    tensors = arrays()
    return {
        "safetensors": safetensors(tensors),
        "npy": npy(tensors["embed.weight"]),
        "npz": npz(tensors),
        "pt": torch_checkpoint(tensors),
        "gguf": gguf(tensors, [gguf_string(b"vocabulary") + struct.pack("<IIQ", 9, 8, 0)]),
        "onnx": onnx(tensors),
    }
