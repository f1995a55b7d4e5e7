"""PyTorch's zip files: checkpoints (`torch.save`) and TorchScript archives.

Every storage is a stored member, `<archive>/data/<key>` (TorchScript keeps more under `constants/`); what the
storages mean stands in a pickle beside them, `data.pkl` or `constants.pkl`. The pickle is only looked at,
never run (`mcr.cutting.pickled`). Where it cannot be understood, tensors carry the names of their members.
"""

import re
from collections.abc import Iterator, Sequence

from mcr.cutting.pickled import PICKLE_BYTES_MAX, Global, Made, Persistent, Table, Value, read
from mcr.cutting.ranges import Reader
from mcr.cutting.spans import (
    DIMENSIONS_MAX,
    DTYPE_BITS,
    TENSOR_NAME_CHARACTERS_MAX,
    MalformedError,
    TensorSpan,
    fills_exactly,
)
from mcr.cutting.zip_directory import Member, data_offset
from mcr.values import dataclass

# The last folder of the path tells the two kinds of storages apart.
_STORAGE = re.compile(r"(?:.*/)?((data|constants)/([0-9]{1,18}))", re.DOTALL)
_PICKLE = re.compile(r"(?:[^/]*/)?(data|constants)\.pkl")
_BYTE_ORDER = re.compile(r"(?:[^/]*/)?byteorder")
# Optimiser states nest four deep, whole pickled modules perhaps thirty.
TREE_DEPTH_MAX = 64

_STORAGE_DTYPES = {
    "torch.FloatStorage": "F32",
    "torch.DoubleStorage": "F64",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.ComplexFloatStorage": "C64",
    "torch.ComplexDoubleStorage": "C128",
    "torch.storage.UntypedStorage": "U8",
    "torch.UntypedStorage": "U8",
}
# Types younger than typed storages are named beside an untyped one (`_rebuild_tensor_v3`).
_DTYPES = {
    "torch.float32": "F32",
    "torch.float64": "F64",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.uint16": "U16",
    "torch.uint32": "U32",
    "torch.uint64": "U64",
    "torch.bool": "BOOL",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "torch.float8_e8m0fnu": "F8_E8M0",
}
_REBUILD = "torch._utils._rebuild_tensor"
_REBUILD_DTYPE_ARGUMENT = 6


@dataclass(frozen=True, slots=True)
class _View:
    """One tensor of a pickle: a view of elements of a storage."""

    name: str
    key: str
    dtype: str
    offset_elements: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def is_archive(members: Sequence[Member]) -> bool:
    """Tell whether a zip file is PyTorch's: it holds the pickle that describes its storages."""
    return any(_PICKLE.fullmatch(member.name) for member in members)


def find_tensors(reader: Reader, members: Sequence[Member]) -> Iterator[TensorSpan]:
    """Yield one tensor per storage, however many tensors of the program share it.

    Raises:
        MalformedError: a storage is not where the directory says.
    """
    names_known = _is_little_endian(reader, members)
    views = _views(reader, members) if names_known else {}
    for member in members:
        match = _STORAGE.fullmatch(member.name)
        if match is None or not member.is_stored:
            continue
        offset_bytes = data_offset(reader, member)
        mere_bytes = TensorSpan(match[1], "U8", (member.length_bytes,), offset_bytes, member.length_bytes)
        yield _understood(mere_bytes, views.get(match[1], []))


def _understood(span: TensorSpan, views: list[_View]) -> TensorSpan:
    """Name a storage after the tensor that is all of it, if there is one."""
    for view in views:
        if view.offset_elements == 0 and fills_exactly(view.dtype, view.shape, span.length_bytes):
            # A transposed view has its elements in another order than its shape says.
            shape = view.shape if _is_contiguous(view) else (_count(view.shape),)
            return TensorSpan(view.name, view.dtype, shape, span.offset_bytes, span.length_bytes)
    for view in views:
        # Parts of one buffer, none of them all of it: the elements are known, the name is the buffer's.
        count = (_elements(view.dtype, span.length_bytes),)
        if fills_exactly(view.dtype, count, span.length_bytes):
            return TensorSpan(span.name, view.dtype, count, span.offset_bytes, span.length_bytes)
    return span


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _is_contiguous(view: _View) -> bool:
    step = 1
    for extent, stride in zip(reversed(view.shape), reversed(view.stride), strict=True):
        if extent != 1 and stride != step:
            return False
        step *= extent
    return True


def _is_little_endian(reader: Reader, members: Sequence[Member]) -> bool:
    for member in members:
        if _BYTE_ORDER.fullmatch(member.name) and member.is_stored:
            return reader.at(data_offset(reader, member), min(member.length_bytes, 16)) == b"little"
    return True  # Writers before PyTorch 2.1 did not say, and ran on such machines.


def _views(reader: Reader, members: Sequence[Member]) -> dict[str, list[_View]]:
    """Return the tensors of the pickles by the storage they look at, `data/0` and so on."""
    found: dict[str, list[_View]] = {}
    for member in members:
        match = _PICKLE.fullmatch(member.name)
        if match is None or not member.is_stored or member.length_bytes > PICKLE_BYTES_MAX:
            continue
        prefix = "" if match[1] == "data" else "constants."
        try:
            tree = read(reader.at(data_offset(reader, member), member.length_bytes))
        except MalformedError:
            continue  # Without names the storages are still tensors.
        for view in _walk(tree, prefix):
            found.setdefault(f"{match[1]}/{view.key}", []).append(view)
    return found


def _walk(tree: Value, prefix: str) -> Iterator[_View]:
    """Yield the tensors of a tree in its order, each node once however often it is shared."""
    seen: set[int] = set()
    waiting: list[tuple[str, Value, int]] = [(prefix, tree, 0)]
    while waiting:
        path, node, depth = waiting.pop()
        if id(node) in seen or depth > TREE_DEPTH_MAX or len(path) > TENSOR_NAME_CHARACTERS_MAX:
            continue
        view = _view(path, node)
        if view is not None:
            seen.add(id(node))
            yield view
            continue
        inner = _inner(path, node)
        if inner:
            seen.add(id(node))
        waiting += [(inner_path, value, depth + 1) for inner_path, value in reversed(inner)]


def _inner(path: str, node: Value) -> list[tuple[str, Value]]:
    match node:
        case Table():
            return [(_join(path, key), value) for key, value in node.pairs if _may_hold(value)]
        case list() | tuple():
            return [(_join(path, index), value) for index, value in enumerate(node) if _may_hold(value)]
        case Made():
            # What stands in a call's place keeps its name: a parameter is its tensor, a module its state.
            arguments = node.arguments if isinstance(node.arguments, tuple) else ()
            inner = [(path, value) for value in arguments if _may_hold(value)]
            return [*inner, (path, node.items), (path, node.elements), (path, node.state)]
        case _:
            return []


def _may_hold(value: Value) -> bool:
    return isinstance(value, Table | list | tuple | Made)


def _join(path: str, key: Value) -> str:
    if not isinstance(key, str | int):
        return path
    return f"{path}{key}" if not path or path.endswith(".") else f"{path}.{key}"


def _view(path: str, node: Value) -> _View | None:
    """Return the tensor that a call of a rebuilding function describes; None for any other node."""
    if not isinstance(node, Made) or not isinstance(node.function, Global):
        return None
    arguments = node.arguments
    if not node.function.name.startswith(_REBUILD) or not isinstance(arguments, tuple) or len(arguments) < 4:
        return None
    storage, offset_elements, shape, stride = arguments[:4]
    if not isinstance(storage, Persistent) or not isinstance(storage.identifier, tuple):
        return None
    if len(storage.identifier) < 3 or type(offset_elements) is not int:
        return None
    _, storage_type, key, *_ = storage.identifier
    if not isinstance(key, str) or not _are_extents(shape, stride):
        return None
    dtype = _STORAGE_DTYPES.get(storage_type.name, "") if isinstance(storage_type, Global) else ""
    if len(arguments) > _REBUILD_DTYPE_ARGUMENT and isinstance(arguments[_REBUILD_DTYPE_ARGUMENT], Global):
        dtype = _DTYPES.get(arguments[_REBUILD_DTYPE_ARGUMENT].name, "")
    return _View(path.rstrip(".") or "tensor", key, dtype, offset_elements, shape, stride) if dtype else None


def _are_extents(shape: Value, stride: Value) -> bool:
    if not isinstance(shape, tuple) or not isinstance(stride, tuple):
        return False
    if len(shape) != len(stride) or len(shape) > DIMENSIONS_MAX:
        return False
    return all(type(extent) is int and 0 <= extent < 1 << 63 for extent in (*shape, *stride))


def _elements(dtype: str, length_bytes: int) -> int:
    return length_bytes * 8 // DTYPE_BITS[dtype]
