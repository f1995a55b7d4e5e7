"""Commands about the program itself: version, completion."""

import platform

import click
from click.shell_completion import get_completion_class

import mcr
from mcr.cli.options import command, with_session
from mcr.cli.output import JsonObject
from mcr.cli.session import Session
from mcr.cli.settings import COMPLETION_VARIABLE
from mcr.record import RECORD_FORMAT

PROGRAM = "mcr"


@command(
    "version",
    examples="""
    mcr version
    mcr version --json
    """,
)
@with_session
def version(session: Session) -> None:
    """Print the version of this program."""
    record: JsonObject = {
        "name": PROGRAM,
        "version": mcr.__version__,
        "record_format": RECORD_FORMAT,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    session.output.data(record, f"{PROGRAM} {mcr.__version__}")


@command(
    "completion",
    examples="""
    mcr completion bash > ~/.local/share/bash-completion/completions/mcr
    mcr completion zsh > ~/.zfunc/_mcr              # with fpath+=~/.zfunc before compinit
    mcr completion fish > ~/.config/fish/completions/mcr.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@with_session
def completion(session: Session, shell: str) -> None:
    """Print a completion script for a shell.

    It completes commands, options, paths, and names in the store.
    """
    found = get_completion_class(shell)
    assert found is not None, "click completes bash, zsh and fish"
    script = found(click.get_current_context().find_root().command, {}, PROGRAM, COMPLETION_VARIABLE).source()
    session.output.data({"shell": shell, "script": script}, script.rstrip("\n"))
