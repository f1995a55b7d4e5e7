"""Retention in random states: rules, and deletions by them, most of which are right."""

from hypothesis import strategies as st

from mcr.model import RequestId
from mcr_node.core.state.retention_commands import RetentionCommand, RetireVersions, SetRetention

_drawn = {
    "request_id": st.just(RequestId(b"to be replaced")),
    "principal": st.sampled_from(["alice", "bob", "ci"]),
    "at_ms": st.integers(1_000, 10**10),
    "model": st.sampled_from(["a/one"] * 7 + ["a/one.2"]),
}
_branches = st.sampled_from(["", "", "main", "exp"])
_best = st.tuples(st.integers(1, 2), st.sampled_from(["loss", "acc"]), st.sampled_from(["min", "max"]))

retention_commands: st.SearchStrategy[RetentionCommand] = st.one_of(
    st.builds(
        SetRetention,
        branch=_branches,
        last=st.integers(0, 3),
        best=st.lists(_best, max_size=2).map(tuple),
        every=st.integers(0, 2),
        age_min_ms=st.integers(0, 1000),
        trash_ms=st.integers(0, 5000),
        is_none=st.sampled_from([False, False, True]),
        **_drawn,
    ),
    st.builds(
        RetireVersions,
        branch=_branches,
        generation=st.integers(1, 3),
        numbers=st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True).map(
            lambda numbers: tuple(sorted(numbers))
        ),
        **_drawn,
    ),
)
