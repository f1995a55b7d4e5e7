"""Errors on the wire: every class arrives as what it was, whatever its fields hold."""

from dataclasses import fields

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr import errors
from mcr._remote.status import TRANSIENT, TransientError, raise_for
from mcr._wire import error_from_wire
from mcr.errors import FailedError, McrError
from mcr.v1 import errors_pb2 as pb
from mcr_node.services.errors import DETAIL_BYTES_MAX, METADATA_KEY, detail_of
from mcr_node.services.statuses import status_of

CLASSES = sorted(
    (
        value
        for value in vars(errors).values()
        if isinstance(value, type)
        and issubclass(value, McrError)
        and "code" in vars(value)
        and value is not McrError
    ),
    key=lambda cls: cls.code,
)
NUMBERS = st.integers(-(2**63), 2**63 - 1)


def made(cls: type[McrError], draw: st.DataObject, text: st.SearchStrategy[str]) -> McrError:
    values = {each.name: draw.draw(NUMBERS if each.type is int else text) for each in fields(cls)}
    return cls(**values)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
@given(draw=st.data())
def test_every_error_arrives_as_what_it_was(cls: type[McrError], draw: st.DataObject) -> None:
    sent = made(cls, draw, st.text(max_size=60))

    arrived = error_from_wire(detail_of(sent))

    assert type(arrived) is cls
    assert arrived.fields() == sent.fields()
    assert (arrived.exit_status, arrived.message, arrived.hint) == (sent.exit_status, sent.message, sent.hint)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_an_error_with_endless_texts_still_fits_and_keeps_its_class(cls: type[McrError]) -> None:
    values = {each.name: 7 if each.type is int else "é\udcff" * 100_000 for each in fields(cls)}
    detail = detail_of(cls(**values))
    assert len(detail) <= DETAIL_BYTES_MAX
    assert type(error_from_wire(detail)) is cls


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_every_error_has_a_status_that_is_not_ok(cls: type[McrError]) -> None:
    values = {each.name: 1 if each.type is int else "x" for each in fields(cls)}
    status = status_of(cls(**values))
    assert status not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)
    # Other clients repeat by the status alone what ours repeats by the class.
    if status is grpc.StatusCode.UNAVAILABLE:
        assert issubclass(cls, TRANSIENT)


def failure(code: grpc.StatusCode, detail: bytes | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata() if detail is None else grpc.aio.Metadata((METADATA_KEY, detail))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details="said by gRPC")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_what_may_pass_is_told_apart_from_what_will_not(cls: type[McrError]) -> None:
    error = cls(**{each.name: 1 if each.type is int else "x" for each in fields(cls)})
    with pytest.raises((McrError, TransientError)) as raised:
        raise_for(failure(status_of(error), detail_of(error)), address="a:1", what="Try", seconds=5)
    assert isinstance(raised.value, TransientError) is isinstance(error, TRANSIENT)


@pytest.mark.parametrize(
    ("code", "exit_status"),
    [
        (grpc.StatusCode.UNAVAILABLE, 11),
        (grpc.StatusCode.CANCELLED, 11),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 15),
    ],
)
def test_a_connection_that_fails_without_a_word_may_work_again(
    code: grpc.StatusCode, exit_status: int
) -> None:
    with pytest.raises(TransientError) as raised:
        raise_for(failure(code), address="a:1", what="Try", seconds=5)
    assert raised.value.error.exit_status == exit_status


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN])
def test_a_failure_that_says_nothing_we_know_is_told_with_address_and_reason(code: grpc.StatusCode) -> None:
    with pytest.raises(FailedError, match=r"a:1.*said by gRPC"):
        raise_for(failure(code), address="a:1", what="Try", seconds=5)


@given(st.binary(max_size=200))
def test_a_detail_of_arbitrary_bytes_gives_some_error(data: bytes) -> None:
    assert isinstance(error_from_wire(data), McrError)


def test_an_error_of_a_newer_node_is_shown_in_its_own_words() -> None:
    detail = pb.ErrorDetail(code="quota_of_tomorrow", message="too many of them", hint="delete some")
    error = error_from_wire(detail.SerializeToString())
    assert isinstance(error, FailedError)
    assert "too many of them (delete some)" in error.message
    # Known by name, but described by other fields.
    changed = pb.ErrorDetail(code="head_moved", message="it moved on")
    assert "it moved on" in error_from_wire(changed.SerializeToString()).message
