"""Refuse changes of the protos that break what is released: compares with the newest tag `v*`, if any."""

import subprocess
import sys
from pathlib import Path

PROTOS = Path(__file__).parent


def main() -> int:
    """Run `buf breaking` and return its exit status; 0 when nothing was released yet."""
    described = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"],
        cwd=PROTOS,
        capture_output=True,
        text=True,
        check=False,
    )
    if described.returncode != 0:
        sys.stdout.write("protos: no release yet, nothing to break\n")
        return 0
    against = f"{PROTOS.parent}/.git#tag={described.stdout.strip()},subdir=protos"
    return subprocess.run(["buf", "breaking", "--against", against], cwd=PROTOS, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
