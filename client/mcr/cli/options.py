"""What every command has in common: its options, its way to a session, and the types of its arguments."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
from click.shell_completion import CompletionItem

from mcr.cli import completing, settings
from mcr.cli.common import META, common_of
from mcr.cli.session import Session, session
from mcr.errors import InvalidReferenceError
from mcr.model import RefKind
from mcr.references import Selector, check_model, parse_reference

P = ParamSpec("P")
R = TypeVar("R")
CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> object:
    # The same options stand before and after the command. All contexts of a run share `meta`, and inner
    # options are parsed later, so what stands nearer to the command's own arguments wins.
    if value is not None and parameter.name is not None:
        context.meta[META + parameter.name] = value
    return value


def _timeout(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    _remember(context, parameter, None if value is None else settings.check_timeout(value))
    return value


def _option(*names: str, callback: Callable[..., Any] = _remember, **attributes: Any) -> click.Option:  # noqa: ANN401 (click's own)
    return click.Option(list(names), expose_value=False, callback=callback, default=None, **attributes)


def common_options() -> list[click.Parameter]:
    """Return fresh copies of the options that every command takes."""
    return [
        _option(
            "--cluster",
            metavar="WHERE",
            help="host:port of nodes, commas between, or the path of an embedded store.  "
            "[environment: MCR_CLUSTER; default: .mcr here or in a folder above]",
        ),
        _option(
            "--profile", metavar="NAME", help="Profile of the settings file.  [environment: MCR_PROFILE]"
        ),
        _option(
            "--stale", is_flag=True, help="Read what the node has, however old: without a majority, too."
        ),
        _option("--json", is_flag=True, help="One JSON object a line on stdout; errors as one on stderr."),
        _option("--quiet", "-q", is_flag=True, help="Only data and errors."),
        _option(
            "--timeout", callback=_timeout, type=float, metavar="SECONDS", help="Give up after that long."
        ),
        _option(
            "--progress/--no-progress", is_flag=True, help="Show progress.  [default: only on a terminal]"
        ),
    ]


class _CommonOptions(click.Command):
    """Lists the common options after the command's own."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:  # noqa: ANN401 (click's own)
        attributes.setdefault("context_settings", CONTEXT_SETTINGS)
        super().__init__(*arguments, **attributes)
        self.common = common_options()
        self.params = [*self.params, *self.common]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the common ones."""
        own = [
            p.get_help_record(ctx)
            for p in self.get_params(ctx)
            # Arguments are told by the usage line and the text below it.
            if isinstance(p, click.Option) and p not in self.common
        ]
        common = [p.get_help_record(ctx) for p in self.common]
        for title, records in (("Options", own), ("Options of every command", common)):
            rows = [record for record in records if record is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Command(_CommonOptions):
    """A command with the common options."""


class Group(_CommonOptions, click.Group):
    """The program: the common options before its commands, which are listed in the order they were added."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the common options, then the commands."""
        _CommonOptions.format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, most used first."""
        return list(self.commands)


def command(name: str, *, examples: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function; `examples` end its help, line for line."""
    return click.command(name, cls=Command, epilog=f"\b\nExamples:\n{_indented(examples)}")


def command_group(name: str) -> Callable[[Callable[..., None]], Group]:
    """Make a group of commands of a function, whose text is its help."""
    return click.group(name, cls=Group)


def _indented(text: str) -> str:
    return "\n".join(f"  {line.strip()}" for line in text.strip().splitlines())


def with_session(function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """Give a command its session as first argument."""

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        context = click.get_current_context()
        with session(common_of(context), what=context.command_path) as current:
            return function(current, *arguments, **options)

    return run


class ModelName(click.ParamType[str]):
    """An argument that names a model, and nothing more."""

    name = "model"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return `value` if it is a model's name.

        Raises:
            BadParameter: it is a reference.
            InvalidNameError: it is no name.
        """
        model, at, _ = value.partition("@")
        if at:
            self.fail(f"{value!r} is a reference; this command takes a model alone: {model}", param, ctx)
        return check_model(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer models."""
        return completing.models(ctx, incomplete)


class Offering(click.ParamType[str]):
    """Any text, with names that a shell offers."""

    name = "text"

    def __init__(self, offer: Callable[[click.Context, str], list[CompletionItem]]) -> None:
        self._offer = offer

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer them."""
        return self._offer(ctx, incomplete)


MODEL = Offering(completing.models)
REFERENCE = Offering(completing.references)
WITHIN = Offering(completing.within)
BRANCH = Offering(completing.names_of(RefKind.BRANCH))
TAG = Offering(completing.names_of(RefKind.TAG))
CHANNEL = Offering(completing.names_of(RefKind.CHANNEL))


def split_reference(text: str) -> tuple[str, str]:
    """Return the model of a reference, and the rest as the client takes it (`v12`, `branch:main`).

    Raises:
        InvalidReferenceError, InvalidNameError: it does not parse.
    """
    reference = parse_reference(text)
    return reference.model, str(reference).partition("@")[2]


def within(model: str, text: str) -> str:
    """Return what a reference inside `model` names: `v12`, `main` or, with the model in front, `model@v12`.

    Raises:
        InvalidReferenceError: it does not parse, or names another model.
    """
    if "/" in text and "@" not in text:
        other, what = split_reference(text)
        if other != model:
            raise InvalidReferenceError(text, f"it names another model than {model}")
        return what
    reference = parse_reference(text, model=model)
    what = str(reference).partition("@")[2]
    assert reference.selector is Selector.NUMBER or reference.name, "a reference names something"
    return what
