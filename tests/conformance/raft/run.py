"""Run every scenario file of a folder: `python -m tests.conformance.raft.run FOLDER`."""

import difflib
import sys
from pathlib import Path

from tests.conformance.raft.datadriven import Directive, parse, without_logs
from tests.conformance.raft.interaction import Interaction
from tests.conformance.raft.tables import Changes, Quorums


def scenario_files(folder: Path) -> list[Path]:
    """Return the scenario files under `folder`."""
    return sorted(folder.rglob("*.txt"))


def run_file(path: Path) -> list[str]:
    """Return where the file and the core differ: nothing if they agree.

    Stops at the first command that differs, for all that follow it would differ, too.
    """
    directives = list(parse(path.read_text(encoding="utf-8")))
    commands = [directive.command for directive in directives]
    runner: Interaction | Quorums | Changes
    if commands and all(command in Quorums.COMMANDS for command in commands):
        runner = Quorums()
    elif commands and all(command in Changes.COMMANDS for command in commands):
        runner = Changes()
    else:
        runner = Interaction()
    for directive in directives:
        expected = without_logs(directive.expected)
        actual = without_logs(_run(runner, directive))
        if actual != expected:
            difference = difflib.unified_diff(
                expected.splitlines(), actual.splitlines(), "expected", "actual", lineterm=""
            )
            return [f"{path}:{directive.line}: {directive.command}", *difference]
    return []


def _run(runner: Interaction | Quorums | Changes, directive: Directive) -> str:
    try:
        return runner.run(directive)
    except Exception as error:  # noqa: BLE001 - an error of any kind is a difference like another
        return f"{type(error).__name__}: {error}"


def main(arguments: list[str]) -> int:
    """Print a line a file and a count; 1 if any file failed or none was found."""
    files = [path for argument in arguments for path in scenario_files(Path(argument))]
    passed = 0
    for path in files:
        difference = run_file(path)
        passed += not difference
        print("FAIL" if difference else "pass", path)  # noqa: T201
        for line in difference:
            print("    " + line)  # noqa: T201
    print(f"{passed} of {len(files)} files passed")  # noqa: T201
    return 0 if files and passed == len(files) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
