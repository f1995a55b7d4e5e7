"""Pure reads for a decision about retention: the versions that are there, page by page."""

from itertools import islice

from mcr_node.core.state import deletions, keys, lookup, queries
from mcr_node.core.state.retention_decision import Candidate
from mcr_node.core.state.roots import Uses
from mcr_node.core.state.view import View


def candidates(
    view: View, model: str, *, before: int, limit: int, metrics: tuple[str, ...], with_uses: bool
) -> tuple[list[Candidate], int]:
    """Return versions that are not deleted, newest first.

    Args:
        view: where to read.
        model: the model.
        before: only versions with a smaller number; 0 = from the newest.
        limit: look at so many versions at most.
        metrics: names of those to read.
        with_uses: find out what needs each of them.

    Returns:
        The versions, and `before` of the next page; 0 = this was the last one.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    lookup.model_row(view, model)
    uses = Uses(view, model) if with_uses else None
    span = keys.versions_before(model, before or keys.NUMBER_MAX)
    found: list[Candidate] = []
    last = 0
    for _, data in islice(view.scan(*span, reverse=True), limit):
        record = lookup.read_record(data)
        last = record.number
        if deletions.deletion_of(view, model, record.number) is not None:
            continue
        values = queries.metrics_of(view, model, record.number) if metrics else {}
        found.append(
            Candidate(
                number=record.number,
                branch=record.branch,
                created_at_ms=record.created_at_ms,
                metrics={name: values[name] for name in metrics if name in values},
                uses=uses.of(record.number) if uses is not None else (),
            )
        )
    return found, 0 if last <= 1 else last
