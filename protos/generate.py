"""Compile protos/ into the package that owns each file. `--check` only compares.

A proto package and the Python package it lands in share one name (mcr.v1 -> client/mcr/v1,
mcr_node.peer.v1 -> node/mcr_node/peer/v1), so protoc's absolute imports work unpatched.
"""

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent
OWNERS = {"mcr": PROTOS.parent / "client", "mcr_node": PROTOS.parent / "node"}
PLUGINS = ("python", "mypy")
# Stubs for those that have services; for the others protoc would write empty modules.
SERVICE_PLUGINS = ("grpc_python", "mypy_grpc")


def compile_into(folder: Path, package: str) -> list[Path]:
    """Compile one owner's files into `folder` and return what was written, relative to it."""
    sources = sorted((PROTOS / package).rglob("*.proto"))
    serving = [source for source in sources if "\nservice " in source.read_text()]
    well_known = Path(protoc.__file__).parent / "_proto"
    for plugins, files in ((PLUGINS, sources), (SERVICE_PLUGINS, serving)):
        flags = [f"--{plugin}_out={folder}" for plugin in plugins]
        if files and protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *flags, *map(str, files)]) != 0:
            raise SystemExit(f"protoc failed on {package}")
    return sorted(p.relative_to(folder) for p in folder.rglob("*_pb2*"))


def main(*, check: bool) -> int:
    """Write (or compare) all generated files and return an exit status."""
    stale: list[str] = []
    for package, owner in OWNERS.items():
        with tempfile.TemporaryDirectory() as scratch:
            fresh = compile_into(Path(scratch), package)
            have = {p.relative_to(owner) for p in (owner / package).rglob("*_pb2*.py*") if p.suffix != ".pyc"}
            stale += [f"{p}: no longer generated" for p in sorted(have - set(fresh))]
            for path in fresh:
                target = owner / path
                if target.exists() and filecmp.cmp(Path(scratch) / path, target, shallow=False):
                    continue
                stale.append(f"{path}: out of date")
                if not check:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(Path(scratch) / path, target)
            if not check:
                for path in have - set(fresh):
                    (owner / path).unlink()
    if check and stale:
        sys.stderr.write("\n".join([*stale, "run: python protos/generate.py", ""]))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
