import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.client.checkout.samples import FILES, Store, write


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write(tmp_path / "source", FILES)
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "a" / "link").symlink_to("../weights/large.bin")
    (folder / "empty folder" / "inner").mkdir(parents=True)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "target"


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    # Fewer is no fault: garbage of other tests in this process may go meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= before
