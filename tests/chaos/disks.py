"""A disk of its own for a node, which can lose power: an ext4 in a file, behind a loop device."""

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# Sparse: only what is written takes room.
SIZE_BYTES = 4 << 30
# EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH (fs/ext4/ext4.h): from this moment nothing reaches the
# device, not even the journal's open transaction. What was synced before is on it.
_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSH = 2
CANARY = "canary"
_OWN_MOUNTS = "MCR_CHAOS_MOUNTS"
_CANARY_BYTES = 64 << 10


class LoopDisk:
    """See the module's text; needs root and a loop device."""

    def __init__(self, image: Path, mount: Path) -> None:
        """Make the file system and mount it."""
        self.image = image
        self.mount = mount
        with image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        _run("mkfs.ext4", "-q", "-F", str(image))
        mount.mkdir()
        self._mount()

    def _mount(self) -> None:
        # The kernel writes back what nobody synced after 30 s, and commits the journal after `commit` s. Both
        # would only spare more than promised.
        _run("mount", "-o", "loop,commit=60", str(self.image), str(self.mount))

    def sing(self) -> None:
        """Write the canary, which nobody syncs."""
        (self.mount / CANARY).write_bytes(b"\x5a" * _CANARY_BYTES)

    def cut(self) -> None:
        """Lose power; whoever has files open on it is to be killed, then `restore`."""
        handle = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(handle)

    def restore(self) -> bool:
        """Switch it on again; True if the canary is gone, without which the cut proves nothing."""
        _run("umount", str(self.mount))
        self._mount()
        canary = self.mount / CANARY
        is_gone = not canary.exists() or canary.stat().st_size < _CANARY_BYTES
        canary.unlink(missing_ok=True)
        return is_gone

    def close(self) -> None:
        """Give everything back; whatever state it is in."""
        with suppress(subprocess.CalledProcessError):
            _run("umount", str(self.mount))
        self.image.unlink(missing_ok=True)


def with_own_mounts() -> None:
    """Begin this program again where nobody else sees its mounts.

    Whoever begins a mount namespace of his own meanwhile, as `ip netns exec` does, would hold a copy of them:
    a file system that lost power would not end with its mount, and come back as dead as it was.
    """
    if missing_for_disks() or shutil.which("unshare") is None or _OWN_MOUNTS in os.environ:
        return
    command = ["unshare", "--mount", sys.executable, *sys.orig_argv[1:]]
    os.execvpe("unshare", command, {**os.environ, _OWN_MOUNTS: "1"})


def missing_for_disks() -> str:
    """Return why there can be no such disk here; empty when there can."""
    if os.geteuid() != 0:
        return "needs root to mount a file system"
    absent = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    if not Path("/dev/loop-control").exists():
        return "needs loop devices"
    return ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
