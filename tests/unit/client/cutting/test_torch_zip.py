"""Laws of reading PyTorch's archives: names from the pickle, which is never run."""

import pickle
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.cutting import pickled
from mcr.cutting.pickled import Global, Made, Persistent, Table
from mcr.cutting.spans import MalformedError
from tests.unit.client.cutting import samples
from tests.unit.client.cutting.samples import (
    Array,
    pickle_global,
    pickle_integer,
    pickle_of,
    pickle_storage,
    pickle_table,
    pickle_tensor,
    pickle_text,
    pickle_tuple,
    torch_zip,
)

FLOATS = samples.noise(64, 1)


def spans(data: bytes) -> list[tuple[str, str, tuple[int, ...]]]:
    plan = samples.plan(data)
    assert plan.format == "pt"
    return [(span.name, span.dtype, span.shape) for span in plan.tensors]


def floats(key: str = "0") -> bytes:
    return pickle_storage(key, "FloatStorage", 16)


def test_nested_checkpoint_gives_dotted_names() -> None:
    inner = pickle_table({"weight": pickle_tensor(floats(), (4, 4))})
    state = pickle_table({"0": pickle_table({"exp_avg": pickle_tensor(floats("1"), (16,))})})
    listed = b"](" + pickle_integer(3) + pickle_tensor(floats("2"), (16,)) + b"e"
    tree = pickle_table({"model": inner, "optimizer": state, "epoch": pickle_integer(3), "list": listed})

    assert spans(torch_zip(tree, [FLOATS] * 3)) == [
        ("model.weight", "F32", (4, 4)),
        ("optimizer.0.exp_avg", "F32", (16,)),
        ("list.1", "F32", (16,)),
    ]


def test_parameter_is_called_as_its_tensor() -> None:
    parameter = (
        pickle_global("torch._utils", "_rebuild_parameter")
        + pickle_tuple(
            pickle_tensor(floats(), (16,)), b"\x88", pickle_global("collections", "OrderedDict") + b")R"
        )
        + b"R"
    )

    assert spans(torch_zip(pickle_table({"bias": parameter}), [FLOATS])) == [("bias", "F32", (16,))]


def test_modules_of_a_script_and_its_constants_are_named() -> None:
    module = pickle_global("__torch__.net", "Net") + b")\x81"
    child = module + pickle_table({"weight": pickle_tensor(floats("1"), (2, 8))}) + b"b"
    root = (
        module
        + pickle_table({"training": b"\x89", "bias": pickle_tensor(floats(), (16,)), "fc": child})
        + b"b"
    )
    constants = pickle_of(pickle_tuple(pickle_tensor(floats(), (16,))))
    more = {
        "constants/0": FLOATS,
        "constants.pkl": constants,
        "code/__torch__/net.py": b"def forward(): pass",
    }

    assert spans(torch_zip(root, [FLOATS, FLOATS], **more)) == [
        ("bias", "F32", (16,)),
        ("fc.weight", "F32", (2, 8)),
        ("constants.0", "F32", (16,)),
    ]


def test_tensors_that_share_a_storage_are_one() -> None:
    tied = pickle_table({"embed": pickle_tensor(floats(), (4, 4)), "head": pickle_tensor(floats(), (4, 4))})

    assert spans(torch_zip(tied, [FLOATS])) == [("embed", "F32", (4, 4))]


def test_parts_of_one_buffer_are_the_buffer() -> None:
    halves = {
        "w": pickle_tensor(floats(), (2, 4)),
        "b": pickle_tensor(floats(), (8,), offset=8),
    }

    assert spans(torch_zip(pickle_table(halves), [FLOATS])) == [("data/0", "F32", (16,))]


def test_transposed_tensor_keeps_its_name_but_not_its_shape() -> None:
    transposed = pickle_tensor(floats(), (2, 8), stride=(1, 2))

    assert spans(torch_zip(pickle_table({"w": transposed}), [FLOATS])) == [("w", "F32", (16,))]


def test_types_beside_an_untyped_storage_are_understood() -> None:
    storage = pickle_storage("0", "UntypedStorage", 64, "torch.storage")
    arguments = (
        storage,
        pickle_integer(0),
        pickle_tuple(*[pickle_integer(8)] * 2),
        pickle_tuple(pickle_integer(8), pickle_integer(1)),
        b"\x89",
        b"N",
        pickle_global("torch", "float8_e4m3fn"),
        b"N",
    )
    tensor = pickle_global("torch._utils", "_rebuild_tensor_v3") + pickle_tuple(*arguments) + b"R"

    assert spans(torch_zip(pickle_table({"w": tensor}), [FLOATS])) == [("w", "F8_E4M3", (8, 8))]


@pytest.mark.parametrize(
    "tree",
    [
        b"",  # ends at once, with nothing on the stack
        b"\x00",
        pickle_tuple(b""),
        pickle_table({"w": pickle_tensor(floats("7"), (16,))}),
        pickle_table({"w": pickle_tensor(pickle_integer(3), (16,))}),
        pickle_table({"w": pickle_tensor(pickle_integer(3) + b"Q", (16,))}),
        pickle_table({"w": pickle_tensor(pickle_tuple(pickle_text("storage")) + b"Q", (16,))}),
        pickle_table({"w": pickle_tensor(pickle_storage("0", "StrangeStorage", 16), (16,))}),
        pickle_table({"w": pickle_tensor(floats(), (-16,))}),
        pickle_table({"w": pickle_tensor(floats(), (16,), stride=(1, 1))}),
        pickle_table({"w": pickle_global("torch._utils", "_rebuild_tensor_v2") + b")R"}),
    ],
)
def test_storage_that_no_tensor_explains_is_named_after_its_member(tree: bytes) -> None:
    assert spans(torch_zip(tree, [FLOATS])) == [("data/0", "U8", (64,))]


def test_storage_of_another_length_than_its_tensor_keeps_its_elements() -> None:
    tree = pickle_table({"w": pickle_tensor(floats(), (15,))})

    assert spans(torch_zip(tree, [FLOATS])) == [("data/0", "F32", (16,))]
    assert spans(torch_zip(tree, [FLOATS[:63]])) == [("data/0", "U8", (63,))]


def test_big_endian_storages_are_mere_bytes() -> None:
    members = {
        "a/data.pkl": pickle_of(pickle_table({"w": pickle_tensor(floats(), (16,))})),
        "a/byteorder": b"big",
        "a/data/0": FLOATS,
    }

    assert spans(samples.zip_of(members)) == [("data/0", "U8", (64,))]


def test_archive_of_an_older_release_says_nothing_of_byte_order() -> None:
    members = {
        "a/data.pkl": pickle_of(pickle_table({"w": pickle_tensor(floats(), (16,))})),
        "a/data/0": FLOATS,
    }

    assert spans(samples.zip_of(members)) == [("w", "F32", (16,))]


def test_compressed_storages_stay_between_the_tensors() -> None:
    members = {"a/data.pkl": pickle_of(b"}"), "a/data/0": bytes(64), "a/data/1": FLOATS}

    assert spans(samples.zip_of(members, compressed=["a/data/0"])) == [("data/1", "U8", (64,))]


def test_structure_that_holds_itself_ends() -> None:
    tree = (
        b"}q\x00" + pickle_text("self") + b"h\x00s" + pickle_text("w") + pickle_tensor(floats(), (16,)) + b"s"
    )

    assert spans(torch_zip(tree, [FLOATS])) == [("w", "F32", (16,))]


def test_structure_that_doubles_at_each_level_is_walked_once() -> None:
    tree = pickle_tensor(floats(), (16,))
    for _ in range(40):
        tree += b"2\x86"  # DUP TUPLE2: two references to what was there

    assert len(spans(torch_zip(tree, [FLOATS]))) == 1


def test_structure_deeper_than_the_limit_is_not_walked() -> None:
    tree = pickle_tensor(floats(), (16,)) + b"\x85" * 5000

    assert spans(torch_zip(tree, [FLOATS])) == [("data/0", "U8", (64,))]


class Trap:
    """Raises when its pickle is run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


def test_pickle_is_never_run() -> None:
    data = pickle.dumps([1.5, Trap()], protocol=2)
    with pytest.raises(ZeroDivisionError):
        pickle.loads(data)

    plan = samples.plan(samples.zip_of({"a/data.pkl": data, "a/data/0": FLOATS}))

    assert plan.format == "pt"
    tree = pickled.read(data)
    assert isinstance(tree, list)
    assert isinstance(tree[1], Made)
    assert (tree[1].function, tree[1].arguments) == (Global("__builtin__.eval"), ("1 / 0",))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def plain(value: object) -> object:
    """Return what a table stands for."""
    match value:
        case Table():
            return {key: plain(item) for key, item in value.pairs}
        case list():
            return [plain(item) for item in value]
        case tuple():
            return tuple(plain(item) for item in value)
        case _:
            return value


@given(value=VALUES, protocol=st.sampled_from([3, 4, 5]))
@settings(deadline=None)
def test_plain_values_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    assert plain(pickled.read(pickle.dumps(value, protocol))) == value


def test_values_longer_than_their_short_forms_are_read() -> None:
    value = [10**1000, "x" * 300, b"y" * 300, bytearray(b"z"), list(range(300)), {1: [2]}]

    assert plain(pickled.read(pickle.dumps(value, 5))) == [*value[:3], b"z", *value[4:]]
    assert plain(pickled.read(pickle.dumps(value[:2] + value[4:], 2))) == value[:2] + value[4:]


def test_sets_are_read_as_lists() -> None:
    assert pickled.read(pickle.dumps({"a"}, 4)) == ["a"]
    assert pickled.read(pickle.dumps(frozenset({"a"}), 4)) == ["a"]


def test_calls_globals_and_outside_things_stay_what_they_are_called() -> None:
    call = pickled.read(pickle_of(pickle_global("os", "system") + pickle_tuple(pickle_text("ls")) + b"R"))
    outside = pickled.read(pickle_of(pickle_text("key") + b"Q"))
    with_keywords = pickled.read(pickle_of(b"\x8c\x01m\x8c\x01n\x93)}\x92"))

    assert isinstance(call, Made)
    assert (call.function, call.arguments) == (Global("os.system"), ("ls",))
    assert outside == Persistent("key")
    assert isinstance(with_keywords, Made)
    assert with_keywords.function == Global("m.n")


def test_object_keeps_what_is_appended_and_set() -> None:
    program = (
        pickle_global("m", "C")
        + b")\x81"  # NEWOBJ without arguments
        + b"K\x01a"  # append 1
        + b"K\x02K\x03s"  # set item 2 to 3
        + b"}b"  # its state: an empty table
        + b"N0"  # something pushed and popped
        + b"(K\x05K\x061"  # a run pushed and popped to its mark
    )

    made = pickled.read(pickle_of(program))

    assert isinstance(made, Made)
    assert made.elements == [1]
    assert made.items.pairs == [(2, 3)]
    assert isinstance(made.state, Table)


def test_marked_lists_and_tables_are_read() -> None:
    assert pickled.read(pickle_of(b"(K\x01K\x02l")) == [1, 2]
    assert plain(pickled.read(pickle_of(b"(K\x01K\x02d"))) == {1: 2}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b".",
        b"K\x01",
        b"I1\n.",  # textual opcodes are of no archive
        b"X\xff\xff\xff\xffabc.",
        b"h\x05.",
        b"cmodule",
        b"K\x01K\x02a.",
        b"K\x01K\x02K\x03s.",
        b"}(K\x01u.",
        b"K\x01K\x02\x93.",
        b"]e.",
        b"(" * 10,
    ],
)
def test_broken_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        pickled.read(data)


@given(data=st.binary(max_size=60))
@settings(deadline=None, max_examples=300)
def test_arbitrary_pickles_are_read_or_refused(data: bytes) -> None:
    try:
        pickled.read(data + b".")
    except MalformedError:
        return


def test_pickle_beyond_its_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "OPCODES_MAX", 5)
    monkeypatch.setattr(pickled, "PICKLE_BYTES_MAX", 20)

    with pytest.raises(MalformedError, match="opcodes"):
        pickled.read(b"N" * 10 + b".")
    with pytest.raises(MalformedError, match="bytes"):
        pickled.read(b"N" * 30 + b".")


def test_storages_of_every_type_are_understood() -> None:
    for dtype, storage_type in samples.TORCH_STORAGES.items():
        array = Array(FLOATS, (64 // {"F32": 4, "F16": 2, "I64": 8, "U8": 1}[dtype],), dtype)
        data = samples.torch_checkpoint({storage_type: array})
        assert samples.found(samples.plan(data), data) == {storage_type: replace(array)}
