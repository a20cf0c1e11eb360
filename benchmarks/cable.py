"""Two hosts on one machine, and the cable between them: of limited rate, or with a delay.

The hosts are network namespaces. A cable of limited rate is a virtual one of the kernel's, with a
token bucket at each end (tc tbf). A cable with a delay is two TUN devices: this module, started as
a program, takes the packets out of one and puts them into the other when their time has come. It
takes root, and `ip` and `tc` (Debian's iproute2).
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# Name of a host's namespace, of its end of the cable, and its address.
HOSTS = (("trajcast0", "tjc0", "10.77.0.1"), ("trajcast1", "tjc1", "10.77.0.2"))
# Bytes of a packet of a cable with a delay: few packets, for a program that moves each of them.
LARGE_PACKETS = 65000
# From <linux/if_tun.h>: the request that names a device; layer 3, without a header.
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def call(*words: str) -> None:
    """Run a program; raises CalledProcessError."""
    subprocess.run(words, check=True, capture_output=True, text=True)


@contextmanager
def two_hosts(delay: float | None = None) -> Iterator[None]:
    """Make the namespaces and the cable; at the end they are gone.

    Args:
        delay: of each packet, s; None: a cable whose rate can be limited.
    """
    relay: subprocess.Popen[str] | None = None
    try:
        for host, _, _ in HOSTS:
            call("ip", "netns", "add", host)
        if delay is None:
            (first, end, _), (second, other, _) = HOSTS
            words = ["ip", "link", "add", end, "netns", first, "type", "veth"]
            call(*words, "peer", "name", other, "netns", second)
        else:
            words = [sys.executable, str(Path(__file__).resolve()), f"{delay:g}"]
            relay = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            _wait_for(relay.stdout)
            for host, cable, _ in HOSTS:
                call("ip", "link", "set", cable, "mtu", str(LARGE_PACKETS), "netns", host)
        for host, cable, address in HOSTS:
            call("ip", "-n", host, "addr", "add", f"{address}/24", "dev", cable)
            call("ip", "-n", host, "link", "set", "lo", "up")
            call("ip", "-n", host, "link", "set", cable, "up")
        for host, cable, _ in HOSTS:
            _wait_until_up(host, cable)
        yield
    finally:
        if relay is not None:
            relay.kill()
            relay.wait()
        for host, _, _ in HOSTS:
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


def _wait_until_up(host: str, cable: str) -> None:
    for _ in range(500):
        words = ["ip", "-n", host, "link", "show", cable]
        if "DOWN" not in subprocess.run(words, capture_output=True, text=True).stdout:
            return
        time.sleep(0.01)
    raise OSError(f"{cable} does not come up")


def _wait_for(output: IO[str] | None) -> None:
    assert output is not None
    if not output.readline():
        raise OSError("/dev/net/tun cannot be used")


def limit_rate(rate: float) -> None:
    """Limit what each host sends, Gbit/s."""
    # A bucket of two ms, but at least some packets of this cable.
    burst = max(int(2e-3 * rate * 1e9 / 8), 131072)
    limits = ["rate", f"{rate * 1e3:g}mbit", "burst", f"{burst}b", "latency", "100ms"]
    for host, cable, _ in HOSTS:
        call("tc", "-n", host, "qdisc", "add", "dev", cable, "root", "tbf", *limits)


def carry(delay: float) -> None:
    """Take the packets from one device to the other, each after so many s; never returns."""
    ends = []
    for _, cable, _ in HOSTS:
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", cable.encode(), IFF_TUN | IFF_NO_PI))
        ends.append(end)
    print("ready", flush=True)
    # Of each direction: when a packet is due, and the packet.
    ways: list[deque[tuple[float, bytes]]] = [deque(), deque()]
    while True:
        due = [way[0][0] for way in ways if way]
        wait = max(min(due) - time.monotonic(), 0.0) if due else None
        ready, _, _ = select.select(ends, [], [], wait)
        now = time.monotonic()
        for way, end in zip(ways, ends, strict=True):
            if end in ready:
                way.append((now + delay, os.read(end, LARGE_PACKETS + 1)))
        for way, end in zip(ways, reversed(ends), strict=True):
            while way and way[0][0] <= now:
                try:
                    os.write(end, way[0][1])
                except OSError:
                    # The other end is not up yet, or full: as on a real cable the packet is lost.
                    pass
                way.popleft()


if __name__ == "__main__":
    carry(float(sys.argv[1]))
