"""The house rules that no off-the-shelf linter checks."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mcr
from mcr import aio, client, errors

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for root in ("client", "node")
    for path in sorted((ROOT / root).rglob("*.py"))
    if "_pb2" not in path.name
]
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
# Where waiting, time and chance may be named; each with its reason.
ENVIRONMENT_READERS = {
    "settings.py",
    "main.py",
    "testing.py",  # for the nodes that it starts
    "_dialling.py",  # the proxy, as gRPC itself reads it
}
# Methods that cannot be the same in both clients, and why.
ONLY_IN_ONE = {
    "open",  # a file object in the blocking client, an AsyncFile in the other
    "tensors",  # a mapping needs blocking access
    "all_versions",  # a generator in both, of different kinds
}


def test_modules_fit_in_a_head() -> None:
    long = {path.name for path in SOURCES if len(path.read_text().splitlines()) > MODULE_LINES_MAX}
    assert long == set()


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > FUNCTION_LINES_MAX
    ]
    assert long == []


@pytest.mark.parametrize(
    ("blocking", "asynchronous"),
    [
        (client.Client, aio.AsyncClient),
        (client.Model, aio.AsyncModel),
        (client.Channel, aio.AsyncChannel),
        (mcr.Session, mcr.AsyncSession),
    ],
)
def test_blocking_client_mirrors_the_async_one(blocking: type, asynchronous: type) -> None:
    def surface(cls: type) -> dict[str, list[str]]:
        members = inspect.getmembers(cls, inspect.isfunction)
        return {
            name: list(inspect.signature(function).parameters)
            for name, function in members
            if name[0] != "_" and name not in ONLY_IN_ONE
        }

    assert surface(blocking) == surface(asynchronous)


def test_public_names_are_sorted_and_documented() -> None:
    assert mcr.__all__ == sorted(mcr.__all__)
    undocumented = [
        name for name in mcr.__all__ if inspect.isclass(getattr(mcr, name)) and not getattr(mcr, name).__doc__
    ]
    assert undocumented == []


def test_only_the_edge_reads_the_environment() -> None:
    readers = {
        path.name
        for path in SOURCES
        if re.search(r"os\.environ|os\.getenv", path.read_text()) and path.name not in ENVIRONMENT_READERS
    }
    assert readers == set()


def test_no_code_sleeps_to_wait_for_another() -> None:
    sleepers = {path.name for path in SOURCES if "time.sleep(" in path.read_text()}
    assert sleepers == set()


def test_the_error_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = re.findall(r"[├└]── (\w+Error)", errors.__doc__ or "")
    real = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.McrError) and value is not errors.McrError
    ]
    assert sorted(drawn) == sorted(real)


def test_importing_the_client_imports_neither_node_nor_numpy() -> None:
    script = (
        "import sys, mcr; "
        "bad = {'mcr_node', 'rocksdict', 'numpy', 'zstandard', 'grpc'} & set(sys.modules); "
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_generated_folders_are_packages() -> None:
    missing = {
        str(path.parent)
        for root in ("client", "node")
        for path in (ROOT / root).rglob("*_pb2.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert missing == set()
