"""Hosts as network namespaces, with links between them that have a length and a width. Needs root.

Two shapes: `two_sites`, where what goes from one site to the other is delayed and limited by a process here
(a TUN device in each site; many kernels have no netem), and within a site nothing is; and `star`, where each
host has a link of its own, limited by `tc tbf`. Everything is gone when the block ends. Bytes are counted by
the kernel, at the devices.
"""

import argparse
import ctypes
import fcntl
import heapq
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

_TUN = "/dev/net/tun"
# ioctl of a TUN device: set its name and kind; layer 3, no header before the packet.
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_DEVICE = "eth0"
# Great packets: this process handles each by hand, and TCP would hand over great segments to hardware too.
MTU_BYTES = 60_000
# What waits at the link before packets are dropped, as in a router; 160 ms at 25 MB/s.
QUEUE_BYTES_MAX = 4 << 20
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with one address."""

    name: str
    address: str

    def command(self, *command: str) -> list[str]:
        """Return what runs `command` there."""
        return ["ip", "netns", "exec", self.name, *command]

    def counted(self) -> "Traffic":
        """Return the bytes that went through its link so far, headers included."""
        shown = _ip("-n", self.name, "-s", "-j", "link", "show", "dev", _DEVICE)
        stats = json.loads(shown)[0]["stats64"]
        return Traffic(stats["tx"]["bytes"], stats["rx"]["bytes"])


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes sent and received."""

    sent: int
    received: int

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.sent - other.sent, self.received - other.received)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@contextmanager
def two_sites(*, delay_ms: float, bytes_per_s: float) -> Iterator[tuple[Host, Host]]:
    """Make two sites; what goes across takes `delay_ms`, and `bytes_per_s` go each way at most."""
    hosts = [Host(f"mcr-{os.getpid()}-{at}", f"10.79.0.{at}") for at in (1, 2)]
    with ExitStack() as stack:
        for host in hosts:
            stack.enter_context(_namespace(host.name))
        command = [sys.executable, "-m", "benchmarks.networks", *(host.name for host in hosts)]
        command += ["--delay-ms", str(delay_ms), "--bytes-per-s", str(bytes_per_s)]
        switch = subprocess.Popen(command, stdout=subprocess.PIPE)
        stack.callback(_end, switch)
        assert switch.stdout is not None
        assert switch.stdout.readline(), "the switch did not start"
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", _DEVICE)
            _ip("-n", host.name, "link", "set", _DEVICE, "mtu", str(MTU_BYTES), "up")
        yield hosts[0], hosts[1]


@contextmanager
def star(count: int, *, bytes_per_s: float) -> Iterator[list[Host]]:
    """Make hosts around a switch; each sends and receives `bytes_per_s` at most."""
    prefix = f"mcr-{os.getpid()}"
    hosts = [Host(f"{prefix}-{at}", f"10.79.1.{at}") for at in range(1, count + 1)]
    middle = f"{prefix}-sw"
    with ExitStack() as stack:
        stack.enter_context(_namespace(middle))
        _ip("-n", middle, "link", "add", "br0", "type", "bridge")
        _ip("-n", middle, "link", "set", "br0", "up")
        for at, host in enumerate(hosts, 1):
            stack.enter_context(_namespace(host.name))
            near = f"v{at}"
            _ip(
                *("-n", middle, "link", "add", near, "type", "veth"),
                *("peer", "name", _DEVICE, "netns", host.name),
            )
            _ip("-n", middle, "link", "set", near, "master", "br0", "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", _DEVICE)
            _ip("-n", host.name, "link", "set", _DEVICE, "up")
            _limit(host.name, _DEVICE, bytes_per_s)
            _limit(middle, near, bytes_per_s)
        yield hosts


def _limit(namespace: str, device: str, bytes_per_s: float) -> None:
    rate = f"{round(bytes_per_s * 8)}bit"
    limits = ["rate", rate, "burst", "256kb", "latency", "100ms"]
    command = ["ip", "netns", "exec", namespace, "tc", "qdisc", "add", "dev", device, "root", "tbf", *limits]
    subprocess.run(command, check=True)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(STOP_S)
    assert process.stdout is not None
    process.stdout.close()


def _tun_in(namespace: str) -> int:
    """Return a new TUN device in a namespace, as its descriptor."""
    library = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    try:
        if library.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"entering {namespace}")
        try:
            device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
            name = struct.pack("16sH22s", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI, b"")
            fcntl.ioctl(device, _TUNSETIFF, name)
        finally:
            library.setns(here, _CLONE_NEWNET)
    finally:
        os.close(here)
        os.close(there)
    return device


def carry(namespaces: Sequence[str], *, delay_s: float, bytes_per_s: float) -> None:
    """Carry packets between two namespaces for ever."""
    devices = [_tun_in(name) for name in namespaces]
    print("ready", flush=True)
    # When each direction is free to send the next packet.
    free_at = [0.0, 0.0]
    # (when it arrives, number, to, packet)
    on_the_way: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        wait = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        readable, _, _ = select.select(devices, [], [], wait)
        now = time.monotonic()
        for device in readable:
            side = devices.index(device)
            try:
                packet = os.read(device, MTU_BYTES + 64)
            except (BlockingIOError, OSError):
                continue
            begins = max(now, free_at[side])
            if (begins - now) * bytes_per_s > QUEUE_BYTES_MAX:
                continue
            free_at[side] = begins + len(packet) / bytes_per_s
            number += 1
            heapq.heappush(on_the_way, (free_at[side] + delay_s, number, 1 - side, packet))
        now = time.monotonic()
        while on_the_way and on_the_way[0][0] <= now:
            _, _, to, packet = heapq.heappop(on_the_way)
            try:
                os.write(devices[to], packet)
            except OSError:
                # Full, or not up yet: lost, as on any network.
                continue


def main() -> None:
    """Be the switch between two sites."""
    parser = argparse.ArgumentParser(description="the link between two sites")
    parser.add_argument("namespaces", nargs=2)
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--bytes-per-s", type=float, required=True)
    given = parser.parse_args()
    carry(given.namespaces, delay_s=given.delay_ms / 1000, bytes_per_s=given.bytes_per_s)


if __name__ == "__main__":
    main()
