"""Laws of walking ONNX models."""

import struct

import pytest

from mcr.cutting import onnx
from mcr.cutting.spans import bytes_plan
from tests.unit.client.cutting import samples
from tests.unit.client.cutting.samples import (
    Array,
    onnx_branch,
    onnx_constant,
    onnx_model,
    onnx_tensor,
    proto,
    varint,
)

WEIGHT = Array(samples.noise(64, 1), (4, 4))
BIAS = Array(samples.noise(80, 2), (10,), "I64")


def names(data: bytes) -> list[str]:
    plan = samples.plan(data)
    assert plan.format == "onnx"
    return [span.name for span in plan.tensors]


def test_constants_and_subgraphs_hold_tensors_too() -> None:
    branch = proto(5, onnx_tensor(WEIGHT, "w"))
    loop = proto(1, onnx_constant(BIAS, "c"))
    inner = proto(1, onnx_branch("inner", "body", loop)) + branch
    graph = (
        proto(5, onnx_tensor(WEIGHT, "w"))
        + proto(1, onnx_constant(BIAS, "value_1"))
        + proto(1, onnx_branch("if", "then_branch", inner))
        + proto(1, onnx_branch("if", "else_branch", branch))
        + proto(1, onnx_branch("many", "graphs", branch, branch, number=11))
    )

    assert names(onnx_model(graph)) == [
        "w",
        "value_1",
        "if/then_branch/inner/body/c",
        "if/then_branch/w",
        "if/else_branch/w",
        "many/graphs/w",
        "many/graphs/w#2",
    ]


def test_functions_and_training_graphs_hold_tensors_too() -> None:
    function = proto(1, "gelu") + proto(7, onnx_constant(WEIGHT, "k"))
    function += proto(11, proto(1, "default") + proto(5, onnx_tensor(WEIGHT)))
    training = proto(1, proto(5, onnx_tensor(WEIGHT, "w"))) + proto(2, proto(5, onnx_tensor(WEIGHT, "grad")))
    graph = proto(2, "main")

    data = onnx_model(graph, proto(25, function), proto(20, training))

    assert names(data) == ["gelu/k", "gelu/default", "training/w", "training/grad"]


def test_sparse_tensors_hold_values_and_indices() -> None:
    sparse = proto(1, onnx_tensor(WEIGHT, "values")) + proto(2, onnx_tensor(BIAS, "indices"))
    attribute = proto(1, "sparse_value") + proto(22, sparse)
    graph = proto(15, sparse) + proto(1, proto(2, "c") + proto(5, attribute))

    assert names(onnx_model(graph)) == ["values", "indices", "c", "c#2"]


def test_numbers_outside_raw_data_are_found() -> None:
    doubles = Array(samples.noise(128, 3), (16,), "F64")
    integers = Array(varint(300) * 40, (40,), "I64")
    graph = (
        proto(5, onnx_tensor(WEIGHT, "floats", payload=4))
        + proto(5, onnx_tensor(doubles, "doubles", payload=10))
        + proto(5, onnx_tensor(integers, "integers", payload=7))
    )
    data = onnx_model(graph)

    found = samples.found(samples.plan(data), data)

    # Integers are packed as varints: bytes, not elements.
    assert found == {
        "floats": WEIGHT,
        "doubles": doubles,
        "integers": Array(integers.data, (80,), "U8"),
    }


def test_shapes_and_scalars_stay_between_the_tensors_but_small_weights_do_not() -> None:
    graph = (
        proto(5, onnx_tensor(Array(bytes(8), (1,), "I64"), "shape"))
        + proto(5, onnx_tensor(Array(bytes(4), ()), "epsilon"))
        + proto(5, onnx_tensor(Array(bytes(4), (1,)), "bias"))
        + proto(5, onnx_tensor(Array(b"", (0,)), "empty"))
    )

    assert names(onnx_model(graph)) == ["bias"]


def test_packed_dimensions_are_understood() -> None:
    tensor = proto(1, varint(4) + varint(4)) + proto(2, 1) + proto(8, "w") + proto(9, WEIGHT.data)
    data = onnx_model(proto(5, tensor))

    assert samples.found(samples.plan(data), data) == {"w": WEIGHT}


def test_type_or_shape_that_does_not_fit_makes_mere_bytes() -> None:
    graph = proto(5, proto(1, 3) + proto(2, 1) + proto(8, "short") + proto(9, bytes(64)))
    graph += proto(5, proto(1, 64) + proto(2, 99) + proto(8, "later") + proto(9, bytes(64)))
    data = onnx_model(graph)

    spans = samples.plan(data).tensors

    assert [(span.dtype, span.shape) for span in spans] == [("U8", (64,)), ("ONNX_99", (64,))]


def test_tensor_in_another_file_has_no_bytes_here() -> None:
    external = proto(13, proto(1, "location") + proto(2, "w.bin")) + proto(14, 1)
    graph = proto(5, proto(1, 4) + proto(2, 1) + proto(8, "w") + external)

    plan = samples.plan(onnx_model(graph))

    assert plan.format == "onnx"
    assert plan.tensors == ()


def test_unknown_fields_of_any_wire_type_are_stepped_over() -> None:
    unknown = (
        proto(99, 7) + proto(98, b"bytes") + varint(97 << 3 | 1) + bytes(8) + varint(96 << 3 | 5) + bytes(4)
    )
    tensor = onnx_tensor(WEIGHT, "w") + varint(4 << 3 | 5) + struct.pack("<f", 1.0)
    data = onnx_model(unknown + proto(5, unknown + tensor), unknown)

    assert samples.found(samples.plan(data), data) == {"w": WEIGHT}


def test_model_whose_version_stands_elsewhere_needs_its_name() -> None:
    data = proto(7, proto(5, onnx_tensor(WEIGHT, "w"))) + proto(1, 8)

    assert samples.plan(data, "model.ONNX").format == "onnx"
    assert samples.plan(data, "model") == bytes_plan(len(data))


@pytest.mark.parametrize(
    "data",
    [
        proto(1, 8),
        proto(7, b""),
        proto(1, 8) + proto(7, b"")[:-1],
        proto(1, "eight") + proto(7, b""),
        proto(1, 8) + proto(7, 3),
        onnx_model(b"\x0b"),  # a group, which proto3 does not have
        onnx_model(b"\x00\x00"),  # field number 0
        onnx_model(varint(5 << 3 | 2) + varint(1 << 62)),
        onnx_model(varint(5 << 3 | 2) + varint(1000)),
        onnx_model(b"\xff" * 20),
        onnx_model(proto(5, proto(1, varint(1) * 100) + proto(9, bytes(64)))),
    ],
)
def test_what_is_no_model_is_plain_bytes(data: bytes) -> None:
    assert samples.plan(data, "model.onnx") == bytes_plan(len(data))


def test_graphs_nest_up_to_a_limit() -> None:
    def nested(depth: int) -> bytes:
        graph = proto(5, onnx_tensor(WEIGHT, "w"))
        for _ in range(depth):
            graph = proto(1, onnx_branch("n" * 100, "g", graph))
        return onnx_model(graph)

    within, beyond = nested(onnx.DEPTH_MAX - 1), nested(onnx.DEPTH_MAX)

    assert len(names(within)) == 1
    assert samples.plan(beyond, "model.onnx") == bytes_plan(len(beyond))


def test_model_beyond_its_limits_is_plain_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = samples.onnx(samples.arrays())
    for limit in ("FIELDS_MAX", "TENSORS_MAX"):
        with monkeypatch.context() as patch:
            patch.setattr(onnx, limit, 2)
            assert samples.plan(data) == bytes_plan(len(data))
