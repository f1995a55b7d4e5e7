"""Keys and values of the view, the view in memory, and the digest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr import canonical
from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.model import LogIndex, RefKind, RequestId, VersionId
from mcr.values import dataclass
from mcr_node.core.state import keys
from mcr_node.core.state.digest import DIGEST_START, next_digest
from mcr_node.core.state.keys import NUMBER_MAX, RefName
from mcr_node.core.state.memory import MemoryView
from mcr_node.core.state.records import IdRow, MetricCountRow, PointerRow, RefRow, Row, StateRow, read
from mcr_node.core.state.view import Overlay, prefix_end
from tests.support.state_world import MODEL, StateWorld

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
models = st.builds(lambda namespace, name: f"{namespace}/{name}", names, names)
refs = st.builds(RefName, models, st.sampled_from(RefKind), names)
numbers = st.integers(0, NUMBER_MAX)
byte_keys = st.binary(min_size=1, max_size=3).filter(lambda key: key.strip(b"\xff") != b"")


@dataclass(frozen=True, slots=True)
class TwinRow(Row):
    """Has the bytes of a MetricCountRow."""

    IS_HOT = True

    count: int


@given(st.lists(refs, min_size=2, max_size=2, unique=True), numbers, numbers)
def test_no_two_things_share_a_key(pair: list[RefName], one: int, other: int) -> None:
    first, second = pair

    assert keys.ref(first) != keys.ref(second)
    assert keys.move(first, one) != keys.move(second, other)
    assert keys.standing(first, one) != keys.standing(second, other)
    assert keys.pointer(first, one) != keys.pointer(second, other)


@given(refs, numbers)
def test_keys_tell_what_they_are_of(of: RefName, number: int) -> None:
    assert keys.number_in(keys.move(of, number)) == number
    assert keys.pointer_in(of.model, keys.pointer(of, number)) == of
    assert keys.ref_in(of.model, keys.ref(of)) == of.name
    assert keys.model_in(keys.model(of.model)) == of.model
    assert keys.metric_in(of.model, keys.metric(of.model, number, "eval/loss")) == "eval/loss"
    assert keys.signature_in(of.model, keys.signature(of.model, number, bytes(32))) == bytes(32)


@given(models, numbers, numbers)
def test_key_order_is_the_order_of_numbers(model: str, one: int, other: int) -> None:
    assert (keys.version(model, one) < keys.version(model, other)) == (one < other)
    start, end = keys.versions_before(model, other)
    assert (start <= keys.version(model, one) < end) == (one < other)


@given(refs, refs, numbers, numbers)
def test_a_span_holds_what_it_is_for_and_nothing_else(
    one: RefName, other: RefName, number: int, other_number: int
) -> None:
    def within(key: bytes, span: tuple[bytes, bytes]) -> bool:
        return span[0] <= key < span[1]

    same_ref = one == other
    assert within(keys.move(other, number), keys.moves_before(one, NUMBER_MAX)) == (
        same_ref and number < NUMBER_MAX
    )
    assert within(keys.ref(other), keys.refs_after(one.model, one.kind, "")) == (
        (one.model, one.kind) == (other.model, other.kind)
    )
    assert within(keys.pointer(other, other_number), keys.pointers(one.model, number)) == (
        (one.model, number) == (other.model, other_number)
    )
    assert within(keys.metric(other.model, other_number, "x"), keys.metrics(one.model, number)) == (
        (one.model, number) == (other.model, other_number)
    )
    assert within(keys.ref(other), keys.refs_after(one.model, one.kind, one.name)) == (
        (one.model, one.kind) == (other.model, other.kind) and other.name > one.name
    )
    assert within(keys.model(other.model), keys.models_after(one.model)) == (other.model > one.model)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 64), st.booleans())
def test_an_id_lies_in_the_span_of_each_of_its_starts(identity: bytes, characters: int, flip: bool) -> None:
    prefix = identity.hex()[:characters]
    if flip:
        prefix = prefix[:-1] + ("0" if prefix[-1] != "0" else "f")
    start, end = keys.version_ids(MODEL, prefix)

    inside = start <= keys.version_id(MODEL, VersionId(identity)) < end

    assert inside == identity.hex().startswith(prefix)


def test_requests_are_in_the_order_of_their_index() -> None:
    start, end = keys.request_ages_from(300)

    assert not start <= keys.request_age(299) < end
    assert start <= keys.request_age(300) < keys.request_age(70_000) < end
    assert keys.request(RequestId(b"\xff")) != keys.request(RequestId(b"\xff\xff"))


def test_no_key_of_the_view_is_one_of_the_store() -> None:
    world = StateWorld()
    world.commits(2)
    world.channel_set(1, 2)
    world.reported(1, {"loss": 1})

    families = {key[:1] for key, _ in world.view.scan(b"", b"\xff")}

    assert families == {bytes([byte]) for byte in b"MWacehilmpqrsvw"}


def test_a_row_survives_the_way_to_bytes_and_back() -> None:
    row = RefRow(
        number=3,
        version_id=b"\x01" * 32,
        generation=2,
        below=1,
        actor="alice",
        reason="",
        at_ms=5,
        protection={"actors": ["ci"]},
        protected_by="bob",
    )

    assert RefRow.unpack(row.pack()) == row
    assert PointerRow.unpack(PointerRow().pack()) == PointerRow()
    assert canonical.decode(IdRow(number=7).pack()) == {"f": 1, "number": 7}


@given(st.integers(0, 3))
def test_rows_that_share_their_bytes_are_not_taken_for_each_other(number: int) -> None:
    hot, twin = MetricCountRow(count=number), TwinRow(count=number)

    assert hot.pack() == twin.pack()
    assert type(TwinRow.unpack(hot.pack())) is TwinRow
    assert type(MetricCountRow.unpack(twin.pack())) is MetricCountRow


def test_what_is_remembered_of_a_row_is_what_its_bytes_say() -> None:
    rules = {"actors": ("ci", "bob")}
    row = RefRow(
        number=3,
        version_id=b"\x01" * 32,
        generation=2,
        below=1,
        actor="alice",
        reason="",
        at_ms=5,
        protection=rules,
    )

    # Whoever compares it later must see the same on every node, wherever the row was written.
    assert RefRow.unpack(row.pack()).protection == {"actors": ["ci", "bob"]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        canonical.encode({"f": 1}),
        canonical.encode({"number": 1}),
        canonical.encode({"f": 0, "number": 1}),
        canonical.encode({"f": "1", "number": 1}),
        canonical.encode({"f": 1, "number": 1, "more": 2}),
    ],
)
def test_bytes_that_are_no_row_are_damage(data: bytes) -> None:
    with pytest.raises(CorruptStoreError):
        IdRow.unpack(data)


@pytest.mark.parametrize("row", [IdRow, StateRow, PointerRow])
def test_a_row_of_a_newer_release_says_so(row: type[Row]) -> None:
    with pytest.raises(StoreFormatError):
        row.unpack(canonical.encode({"f": row.FORMAT + 1}))


def test_damage_is_never_a_rejection() -> None:
    world = StateWorld()
    world.commits(1)
    world.view.write([(keys.model(MODEL), b"\x00")])

    with pytest.raises(CorruptStoreError):
        world.apply(world.commit())
    world.view.write([(keys.model(MODEL), canonical.encode({"f": 2}))])
    with pytest.raises(StoreFormatError):
        world.apply(world.commit())


@given(st.lists(st.tuples(byte_keys, st.none() | st.binary(max_size=2))), byte_keys, byte_keys, st.booleans())
def test_the_view_in_memory_is_a_sorted_map(
    changes: list[tuple[bytes, bytes | None]], start: bytes, end: bytes, reverse: bool
) -> None:
    view, model = MemoryView(), dict[bytes, bytes]()
    for key, value in changes:
        view.write([(key, value)])
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value

    expected = sorted(((k, v) for k, v in model.items() if start <= k < end), reverse=reverse)

    assert list(view.scan(start, end, reverse=reverse)) == expected
    assert {key: view.get(key) for key in model} == model
    assert view.get(b"") is None


@given(
    st.dictionaries(byte_keys, st.binary(max_size=2)),
    st.lists(st.tuples(byte_keys, st.none() | st.binary(max_size=2))),
    byte_keys,
    byte_keys,
    st.booleans(),
)
def test_an_overlay_reads_as_if_its_changes_were_written(
    rows: dict[bytes, bytes],
    changes: list[tuple[bytes, bytes | None]],
    start: bytes,
    end: bytes,
    reverse: bool,
) -> None:
    below, written = MemoryView(), MemoryView()
    below.write(list(rows.items()))
    written.write(list(rows.items()))
    overlay = Overlay(below)
    for key, value in changes:
        if value is None:
            overlay.delete(key)
        else:
            overlay.put(key, value)

    written.write(overlay.changes())

    assert list(overlay.scan(start, end, reverse=reverse)) == list(written.scan(start, end, reverse=reverse))
    assert all(overlay.get(key) == written.get(key) for key, _ in changes)
    assert [key for key, _ in overlay.changes()] == sorted({key for key, _ in changes})


@given(byte_keys)
def test_the_end_of_a_prefix_is_after_all_it_starts(prefix: bytes) -> None:
    end = prefix_end(prefix)

    assert prefix < end
    assert prefix + b"\xff" * 5 < end


def test_a_missing_row_is_none() -> None:
    assert read(MemoryView(), keys.STATE, StateRow) is None


def test_the_digest_depends_on_all_that_came_before_and_on_the_place_of_every_byte() -> None:
    one = LogIndex(1)
    digests = [
        next_digest(DIGEST_START, one, []),
        next_digest(DIGEST_START, LogIndex(2), []),
        next_digest(next_digest(DIGEST_START, one, []), one, []),
        next_digest(DIGEST_START, one, [(b"a", b"b")]),
        next_digest(DIGEST_START, one, [(b"ab", b"")]),
        next_digest(DIGEST_START, one, [(b"ab", None)]),
        next_digest(DIGEST_START, one, [(b"a", b"b"), (b"c", b"d")]),
        next_digest(DIGEST_START, one, [(b"a", b"b"), (b"c", None)]),
    ]

    assert len(set(digests)) == len(digests)
    assert {len(digest) for digest in digests} == {32}


def test_the_digest_of_one_entry_is_what_it_was_in_the_first_release() -> None:
    digest = next_digest(DIGEST_START, LogIndex(1), [(b"key", b"value"), (b"gone", None)])

    assert digest.hex() == "024de316e8d6b79db7d814fb2108bcaa2f1bcb77d21ce24f062c5d6b1a659c4c"


def test_a_row_of_an_earlier_format_is_read_without_the_fields_that_came_later() -> None:
    fields = {"last_at_ms": 5, "request_count": 2, "oldest_request_index": 1}

    assert StateRow.unpack(canonical.encode({"f": 1, **fields})) == StateRow(**fields)
    for wrong in ({"f": 1, **fields, "oldest_request_at_ms": 3}, {"f": 2, **fields}, {"f": 0, **fields}):
        with pytest.raises(CorruptStoreError):
            StateRow.unpack(canonical.encode(wrong))
