"""ONNX: a protobuf message, walked without being read: a jump over every tensor's payload.

Weights are initializers of the graph, but also attributes of `Constant` nodes and of the subgraphs of `If`,
`Loop` and `Scan`, to any depth. Field numbers are those of onnx.proto3. Tensors kept in other files
(`external_data`) have no bytes here.
"""

from collections.abc import Iterator

from mcr.cutting.ranges import Reader
from mcr.cutting.spans import (
    DIMENSIONS_MAX,
    TENSOR_NAME_CHARACTERS_MAX,
    TENSORS_MAX,
    MalformedError,
    TensorSpan,
    flat,
)
from mcr.values import dataclass

SUFFIX = ".onnx"
# Field 1, the version of the format, as a number.
USUAL_START = b"\x08"
# A scalar or a shape is cheaper inside the bytes around it than as a chunk of its own. Not so a bias of one
# element: it is retrained like any weight, and would make the bytes around it new with every release.
TENSOR_BYTES_MIN = 64
_WEIGHT_DTYPES = {"F32", "F16", "BF16", "F64"}
# Exporters nest an `If` per branch of the source; ten is already rare.
DEPTH_MAX = 32
# Seconds of walking; the largest exported graphs have a few hundred thousand fields.
FIELDS_MAX = 4_000_000
NAME_BYTES_MAX = 4096
_VARINT_BYTES_MAX = 10

_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
# What ModelProto's fields must be; other fields may come with later releases of ONNX.
_MODEL_WIRE_TYPES = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2}
_IR_VERSION, _GRAPH, _TRAINING, _FUNCTION = 1, 7, 20, 25

# TensorProto.DataType -> name.
_DTYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    15: "C128",
    16: "BF16",
    17: "F8_E4M3",
    18: "F8_E4M3FNUZ",
    19: "F8_E5M2",
    20: "F8_E5M2FNUZ",
    21: "U4",
    22: "I4",
    23: "F4",
    24: "F8_E8M0",
    25: "U2",
    26: "I2",
}
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9
# Packed numbers: floats and doubles of fixed width, the others as varints, which are no array.
_PACKED = {4: "F32", 5: "", 7: "", 10: "F64", 11: ""}


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message: `value` for a varint, else the range of its bytes."""

    number: int
    wire_type: int
    value: int
    start: int
    end: int


def find_tensors(reader: Reader) -> list[TensorSpan]:
    """Return every tensor of at least TENSOR_BYTES_MIN bytes, and smaller rows of floating-point numbers.

    Names inside subgraphs and functions carry the path of nodes and attributes that leads to them.

    Raises:
        MalformedError: the bytes are no ONNX model.
    """
    walk = _Walk(reader)
    seen: set[int] = set()
    for part in walk.fields(0, reader.size_bytes):
        if _MODEL_WIRE_TYPES.get(part.number, part.wire_type) != part.wire_type:
            raise MalformedError(f"field {part.number} has wire type {part.wire_type}")
        seen.add(part.number)
        if part.number == _GRAPH:
            walk.graph(part, "", DEPTH_MAX)
        elif part.number == _TRAINING:
            for graph in walk.messages(part, 1, 2):
                walk.graph(graph, "training/", DEPTH_MAX)
        elif part.number == _FUNCTION:
            walk.function(part)
    if not {_IR_VERSION, _GRAPH} <= seen:
        raise MalformedError("a model has a version and a graph")
    return walk.tensors


class _Walk:
    """The recursive descent; depth and number of fields are bounded."""

    def __init__(self, reader: Reader) -> None:
        self.tensors: list[TensorSpan] = []
        self._reader = reader
        self._field_count = 0

    def fields(self, start: int, end: int) -> Iterator[_Field]:
        at = start
        while at < end:
            self._field_count += 1
            if self._field_count > FIELDS_MAX:
                raise MalformedError(f"more than {FIELDS_MAX} fields")
            tag, at = self._varint(at)
            number, wire_type = tag >> 3, tag & 7
            value, data_start = 0, at
            if wire_type == _LENGTH_DELIMITED:
                length_bytes, data_start = self._varint(at)
                at = data_start + length_bytes
            elif wire_type == _VARINT:
                value, at = self._varint(at)
            elif wire_type in _FIXED_BYTES:
                at += _FIXED_BYTES[wire_type]
            else:
                raise MalformedError(f"wire type {wire_type} at {at}")
            if at > end or number == 0:
                raise MalformedError(f"field {number} at {data_start} leaves its message")
            yield _Field(number, wire_type, value, data_start, at)

    def messages(self, part: _Field, *numbers: int) -> Iterator[_Field]:
        for inner in self.fields(part.start, part.end):
            if inner.number in numbers and inner.wire_type == _LENGTH_DELIMITED:
                yield inner

    def function(self, part: _Field) -> None:
        """FunctionProto: name 1, node 7, attribute_proto 11."""
        name = "function"
        for inner in self.messages(part, 1, 7, 11):
            if inner.number == 1:
                name = self._text(inner)
            elif inner.number == 7:
                self._node(inner, f"{name}/", DEPTH_MAX)
            else:
                self._attribute(inner, f"{name}/", "", DEPTH_MAX)

    def graph(self, part: _Field, path: str, depth: int) -> None:
        """GraphProto: node 1, initializer 5, sparse_initializer 15."""
        if depth == 0:
            raise MalformedError(f"graphs nest deeper than {DEPTH_MAX}")
        for inner in self.messages(part, 1, 5, 15):
            if inner.number == 1:
                self._node(inner, path, depth)
            elif inner.number == 5:
                self._tensor(inner, path, "")
            else:
                self._sparse(inner, path, "")

    def _node(self, part: _Field, path: str, depth: int) -> None:
        """NodeProto: output 2, name 3, attribute 5; serializers write them in this order."""
        output = name = ""
        for inner in self.messages(part, 2, 3, 5):
            if inner.number == 2:
                output = output or self._text(inner)
            elif inner.number == 3:
                name = self._text(inner)
            else:
                self._attribute(inner, path, output or name, depth)

    def _attribute(self, part: _Field, path: str, owner: str, depth: int) -> None:
        """AttributeProto: name 1, t 5, g 6, tensors 10, graphs 11, sparse_tensor 22, sparse_tensors 23."""
        name = ""
        for inner in self.messages(part, 1, 5, 6, 10, 11, 22, 23):
            match inner.number:
                case 1:
                    name = self._text(inner)
                case 5 | 10:
                    # A constant is called what the graph calls its value.
                    self._tensor(inner, path, owner or name)
                case 6 | 11:
                    # Bounded here, else a path through many levels would grow with every one.
                    self.graph(inner, f"{path}{owner}/{name}/"[:TENSOR_NAME_CHARACTERS_MAX], depth - 1)
                case _:
                    self._sparse(inner, path, owner or name)

    def _sparse(self, part: _Field, path: str, owner: str) -> None:
        """SparseTensorProto: values 1, indices 2."""
        for inner in self.messages(part, 1, 2):
            self._tensor(inner, path, owner)

    def _tensor(self, part: _Field, path: str, owner: str) -> None:
        name, data_type = "", 0
        extents: list[int] = []
        payloads: list[_Field] = []
        for inner in self.fields(part.start, part.end):
            if inner.number == _DIMS:
                extents += [inner.value] if inner.wire_type == _VARINT else self._varints(inner)
            elif inner.number == _DATA_TYPE:
                data_type = inner.value
            elif inner.wire_type != _LENGTH_DELIMITED:
                continue
            elif inner.number == _TENSOR_NAME:
                name = self._text(inner)
            elif inner.number == _RAW_DATA or inner.number in _PACKED:
                payloads.append(inner)
        for payload in payloads:
            length_bytes = payload.end - payload.start
            dtype = _PACKED.get(payload.number) or _DTYPES.get(data_type, f"ONNX_{data_type}")
            span = TensorSpan(path + (owner or name), dtype, tuple(extents), payload.start, length_bytes)
            is_weight = dtype in _WEIGHT_DTYPES and bool(extents) and length_bytes > 0
            if length_bytes < TENSOR_BYTES_MIN and not is_weight:
                continue
            is_array = payload.number == _RAW_DATA or bool(_PACKED[payload.number])
            self._add(span if is_array else flat(span))

    def _add(self, span: TensorSpan) -> None:
        if len(self.tensors) >= TENSORS_MAX:
            raise MalformedError(f"more than {TENSORS_MAX} tensors")
        self.tensors.append(span)

    def _text(self, part: _Field) -> str:
        length_bytes = min(part.end - part.start, NAME_BYTES_MAX)
        return self._reader.at(part.start, length_bytes).decode("utf-8", "replace")

    def _varints(self, part: _Field) -> list[int]:
        values: list[int] = []
        at = part.start
        while at < part.end:
            value, at = self._varint(at)
            values.append(value)
            if len(values) > DIMENSIONS_MAX:
                raise MalformedError(f"a tensor of more than {DIMENSIONS_MAX} dimensions")
        return values

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for index in range(_VARINT_BYTES_MAX):
            page, page_offset = self._reader.page(at, 1)
            byte = page[at - page_offset]
            at += 1
            value |= (byte & 127) << (7 * index)
            if byte < 128:
                return value, at
        raise MalformedError(f"a number at {at} does not end")
