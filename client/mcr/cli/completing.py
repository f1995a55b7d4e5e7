"""What a shell offers for names: models, and in a model its branches, tags, channels and newest versions.

Asked for at each press of a key, so it is bounded: by time, in names, and it reads what a node has, however
old. Where there is no store, or none that answers, nothing is offered and nothing is said.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from mcr.cli.common import common_of
from mcr.cli.session import session
from mcr.errors import McrError
from mcr.model import RefKind

if TYPE_CHECKING:
    from mcr.client import Client

# A shell that hangs is worse than one that offers nothing.
ANSWER_S: Final = 2.0
MODELS_MAX: Final = 1000
VERSIONS_MAX: Final = 20


def models(context: click.Context, begun: str) -> list[CompletionItem]:
    """Return the models whose names begin so."""
    return _offered(
        context, begun, lambda client: (summary.name for summary in client.models(limit=MODELS_MAX))
    )


def references(context: click.Context, begun: str) -> list[CompletionItem]:
    """Return what begins so: models and, behind an `@`, what the model has."""
    model, at, _ = begun.partition("@")
    if not at:
        return models(context, begun)
    return _offered(context, begun, lambda client: (f"{model}@{name}" for name in _names(client, model)))


def names_of(*kinds: RefKind) -> "Callable[[click.Context, str], list[CompletionItem]]":
    """Return what offers the names of these kinds in the model that stands before."""

    def offer(context: click.Context, begun: str) -> list[CompletionItem]:
        model = _model(context)
        return _offered(context, begun, lambda client: _refs(client, model, kinds)) if model else []

    return offer


def within(context: click.Context, begun: str) -> list[CompletionItem]:
    """Return the names and the newest versions of the model that stands before."""
    model = _model(context)
    return _offered(context, begun, lambda client: _names(client, model)) if model else []


def _model(context: click.Context) -> str:
    """Return the model that stands before the cursor; empty when there is none."""
    model = context.params.get("model")
    if isinstance(model, str):
        return model
    # An option whose value is only being written keeps click from telling arguments apart.
    return next((given for given in context.args if "/" in given and not given.startswith("-")), "")


def _names(client: "Client", model: str) -> Iterator[str]:
    yield from _refs(client, model, tuple(RefKind))
    yield from (version.name for version in client.model(model).log(limit=VERSIONS_MAX))


def _refs(client: "Client", model: str, kinds: tuple[RefKind, ...]) -> Iterator[str]:
    for kind in kinds:
        yield from (ref.name for ref in client.model(model).refs(kind))


def _offered(
    context: click.Context, begun: str, find: "Callable[[Client], Iterator[str]]"
) -> list[CompletionItem]:
    try:
        with (
            session(replace(common_of(context), timeout_s=ANSWER_S, stale=True), what="completion") as asked,
            asked.connect() as client,
        ):
            found = dict.fromkeys(name for name in find(client) if name.startswith(begun))
    except McrError:
        return []
    return [CompletionItem(name) for name in found]
