"""Comparing states by their digests: who is right, and who finds out."""

import pytest

from mcr.errors import CorruptStoreError
from mcr.model import LogIndex, RequestId
from mcr_node.core.state.commands import CheckDigest
from mcr_node.core.state.digest import (
    DIGESTS_KEPT_MAX,
    DigestWatch,
    Divergence,
    Verdict,
    decode_divergence,
    encode_divergence,
    judge,
)

A, B, C = (bytes([number] * 32) for number in range(3))
NONE = LogIndex(0)


def said(**digests: bytes) -> dict[LogIndex, bytes]:
    return {LogIndex(int(name[2:])): digest for name, digest in digests.items()}


@pytest.mark.parametrize(
    ("answers", "after", "verdict"),
    [
        # Most voters decide, whoever leads.
        ([said(at10=A), said(at10=A), said(at10=B)], 0, Verdict(LogIndex(10), A)),
        ([said(at10=B), said(at10=A), said(at10=A)], 0, Verdict(LogIndex(10), A)),
        # One that does not answer counts as a voter all the same.
        ([said(at10=A), said(at10=A), {}], 0, Verdict(LogIndex(10), A)),
        ([said(at10=A), {}, {}], 0, Verdict(NONE)),
        ([said(at10=A), said(at10=B), {}], 0, Verdict(NONE)),
        # The newest index at which there is a majority; a follower may not have reached the newest of all.
        ([said(at10=A, at20=B), said(at10=A), said(at10=A)], 0, Verdict(LogIndex(10), A)),
        ([said(at10=A, at20=B), said(at10=A, at20=B), {}], 0, Verdict(LogIndex(20), B)),
        # What was compared before is not compared again.
        ([said(at10=A), said(at10=A), said(at10=B)], 10, Verdict(NONE)),
        # When no digest can have a majority any more, nobody can tell who is wrong.
        ([said(at10=A), said(at10=B)], 0, Verdict(LogIndex(10))),
        ([said(at10=A), said(at10=B), said(at10=C)], 0, Verdict(LogIndex(10))),
    ],
)
def test_a_digest_is_right_when_most_voters_have_it(
    answers: list[dict[LogIndex, bytes]], after: int, verdict: Verdict
) -> None:
    assert judge(answers, LogIndex(after)) == verdict


def check(index: int, digest: bytes) -> CheckDigest:
    return CheckDigest(
        request_id=RequestId(b"x"), principal="mcr", at_ms=0, index=LogIndex(index), digest=digest
    )


def test_a_node_compares_only_what_it_remembers() -> None:
    watch = DigestWatch(10)
    watch.note(LogIndex(10), A)
    watch.note(LogIndex(11), B)
    assert watch.compare(LogIndex(12), check(10, A)) is None
    assert watch.compare(LogIndex(13), check(11, A)) is None
    assert watch.compare(LogIndex(14), check(20, B)) is None
    assert watch.checked == 20

    found = watch.compare(LogIndex(15), check(10, B))

    assert found == watch.divergence == Divergence(LogIndex(10), LogIndex(15), A, B)


def test_what_is_remembered_is_bounded_and_ends_with_the_state_it_is_about() -> None:
    watch = DigestWatch(2)
    for index in range(1, 101):
        watch.note(LogIndex(index), A)
    assert list(watch.known) == [LogIndex(index) for index in range(100 - 2 * DIGESTS_KEPT_MAX + 2, 101, 2)]
    watch.forget()
    assert not watch.known


def test_the_note_of_a_divergence_survives_the_way_to_the_disk_and_back() -> None:
    found = Divergence(LogIndex(3000), LogIndex(3007), A, B)
    assert decode_divergence(encode_divergence(found)) == found
    for damaged in (b"", encode_divergence(found)[:-1], b"\x00"):
        with pytest.raises(CorruptStoreError):
            decode_divergence(damaged)
