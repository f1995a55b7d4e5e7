"""The entry of the `mcr` command: parses, runs, and makes of failures messages and exit statuses."""

import errno
import gc
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from mcr.cli import misc, output, settings
from mcr.cli.options import Group
from mcr.cli.output import Output
from mcr.errors import FailedError, McrError, OutOfSpaceError

GARBAGE_OBJECTS = 100_000
DONE, FAILED, USAGE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141
_EPILOG = """\
\b
Where the cluster is (host:port of its nodes, or the path of an embedded
store), first of these that is given:
  --cluster WHERE; --profile NAME; MCR_CLUSTER; MCR_PROFILE; the profile that
  mcr.toml names; .mcr in the working directory or a folder above it.

\b
A reference is MODEL@WHAT; WHAT is a version (v12), an id (8 characters or
more), a branch, a tag or a channel; branch:, tag: or channel: in front where
one word names several. Without @WHAT the head of main is meant.

\b
EXIT STATUS:
  0    done
  1    failed; the message says why and what to do
  2    usage
  3    not found (model, version, reference, path)
  10   conflict: the head moved, conflicts of a merge are left, or the name exists
  11   no node or no quorum, or durability asked for cannot be reached now
  12   not allowed
  13   corrupt: bytes do not match their digest, a merge computed again differs,
       or a signature does not verify
  14   out of space
  15   deadline passed
  130  interrupted; a commit can be resumed by the same command
  141  the reader of stdout went away

\b
Examples:
  mcr init .mcr
  mcr commit vision/resnet50 ckpt/ -m "epoch 3" -p lr=1e-4
  mcr checkout vision/resnet50@v1 out/
"""


# Most used first; where each is. A module is loaded when its command is run, or the help of all is asked for.
_COMMANDS = {
    "init": "stores.init",
    "commit": "commits.commit",
    "log": "log.log",
    "show": "commits.show",
    "ls": "files.ls",
    "checkout": "files.checkout",
    "cat": "files.cat",
    "diff": "files.diff",
    "branch": "refs.branch",
    "tag": "refs.tag",
    "channel": "refs.channel",
    "rollback": "refs.rollback",
    "retention": "retention.retention",
    "delete": "trash.delete",
    "trash": "trash.trash",
    "pin": "trash.pin",
    "unpin": "trash.unpin",
    "merge": "merges.merge",
    "conflicts": "merges.conflicts",
    "sign": "signing.sign",
    "verify": "signing.verify",
    "report": "metrics.report",
    "follow": "following.follow",
    "watch": "watching.watch",
    "policy": "policies.policy",
    "ack": "receipts.ack",
    "served": "receipts.served",
    "session": "sessions.sessions",
    "cluster": "cluster.cluster",
    "quota": "quotas.quota",
    "rebalance": "rebalance.rebalance",
    "repair": "upkeep.repair",
    "scrub": "upkeep.scrub",
    "prefetch": "prefetch.prefetch",
    "gc": "collecting.collect",
    "node": "node.node",
    "doctor": "stores.doctor",
    "completion": "misc.completion",
    "version": "misc.version",
}


class Program(Group):
    """The group of all commands, loaded one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, most used first."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; None when there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(".")
        found = getattr(import_module(f"mcr.cli.{module}"), attribute)
        assert isinstance(found, click.Command), "the table names commands"
        assert found.name == cmd_name, "under their names"
        return found


@click.group(misc.PROGRAM, cls=Program, epilog=_EPILOG)
def cli() -> None:
    """Version store for machine-learning models.

    Data goes to stdout; talk, progress and errors go to stderr.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit status.
    """
    # Start-up makes some seventy thousand objects that live to the end; looking through them even once is 20
    # of 500 ms, again and again a tenth of a short command. Cycles are still found, later.
    gc.set_threshold(GARBAGE_OBJECTS)
    try:
        return _main(arguments)
    finally:
        if arguments is None:
            # The process ends, and the interpreter would look through all that is left for cycles, twice:
            # a quarter of a short command. Nothing of ours is closed by being collected.
            gc.freeze()


def _main(arguments: Sequence[str] | None) -> int:
    output.prepare()
    given = list(sys.argv[1:] if arguments is None else arguments)
    told = Output(json=_asks_for_json(given))
    if not __debug__:
        told.error(FailedError("python -O", "asserts guard the data here; run without -O and PYTHONOPTIMIZE"))
        return FAILED
    try:
        status = _run(given, told)
        output.flush()
    except BrokenPipeError:
        output.abandon_stdout()
        return READER_GONE
    except OSError as error:
        # Whether or not it was stdout that failed: what it can take still goes out.
        try:
            output.flush()
        except OSError:
            output.abandon_stdout()
        return _fail(told, _translated(error))
    except KeyboardInterrupt:
        return _interrupted(told)
    return status


def node_main() -> int:
    """Run `mcr node start` with the arguments of the process: the command `mcr-node`."""
    return main(["node", "start", *sys.argv[1:]])


def _run(given: list[str], told: Output) -> int:
    instruction = settings.completion_instruction()
    if instruction:
        from click.shell_completion import shell_complete

        try:
            return shell_complete(cli, {}, misc.PROGRAM, settings.COMPLETION_VARIABLE, instruction)
        except McrError:
            # What stands before the cursor makes no sense: nothing is offered, and nothing is said.
            return FAILED
    try:
        # Not cli.main(): it would print errors in a manner of its own, and exit.
        with cli.make_context(misc.PROGRAM, list(given)) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        return _no_command(told, error)
    except click.UsageError as error:
        return _usage(told, error)
    except McrError as error:
        return _fail(told, error)
    except KeyboardInterrupt:
        return _interrupted(told)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 (the last resort: say it in the manner asked for)
        return _bug(told, error)
    return DONE


def _asks_for_json(given: list[str]) -> bool:
    # Errors in the arguments come before the flag itself may be parsed, so it is looked for here.
    end = given.index("--") if "--" in given else len(given)
    return "--json" in given[:end]


def _fail(told: Output, error: McrError) -> int:
    told.error(error)
    return error.exit_status


def _translated(error: OSError) -> McrError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError(str(error.filename or "standard output"), reason)
    return FailedError(str(error.filename or "input or output"), reason)


def _usage(told: Output, error: click.UsageError) -> int:
    path = error.ctx.command_path if error.ctx is not None else misc.PROGRAM
    told.failure(code="usage", message=error.format_message(), hint=f"see: {path} --help", fields={})
    return USAGE


def _no_command(told: Output, error: click.exceptions.NoArgsIsHelpError) -> int:
    if told.json:
        told.failure(code="usage", message="no command given", hint="see: mcr --help", fields={})
    else:
        error.show(sys.stderr)
    return USAGE


def _interrupted(told: Output) -> int:
    hint = "the same command goes on where this one stopped"
    told.failure(code="interrupted", message="interrupted", hint=hint, fields={})
    return INTERRUPTED


def _bug(told: Output, error: Exception) -> int:
    trace = "".join(traceback.format_exception(error))
    told.failure(
        code="internal",
        message=f"internal error: {type(error).__name__}: {error}",
        hint="this is a bug of mcr; please report it with these lines",
        fields={"traceback": trace},
    )
    if not told.json:
        told.talk(trace)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
