"""Two hosts on one machine: network namespaces, and between them a link that delays, and that can be cut."""

import fcntl
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque

ADDRESSES = ("10.77.0.1", "10.77.0.2")
DEVICE = "link"
"""What each host calls its end."""
_TUNSETIFF = 0x400454CA
_PACKETS_ONLY = 0x0001 | 0x1000
_LARGEST = 60_000


class Link:
    """`command[host]` is what to put before a command that a host, 0 or 1, is to run. `delay_s` is for each way.

    Raises `OSError` or `CalledProcessError` where this machine does not allow namespaces.
    """

    def __init__(self, delay_s: float) -> None:
        self.delay_s, self.up, self.over = delay_s, True, False
        self.ends: list[int] = []
        self.holders: list[subprocess.Popen[bytes]] = []
        try:
            for address, other in (ADDRESSES, ADDRESSES[::-1]):
                self._add_host(address, other)
        except BaseException:
            self.close()
            raise
        self.relay = threading.Thread(target=self._relay, daemon=True)
        self.relay.start()

    @property
    def command(self) -> list[list[str]]:
        return [_inside(holder) for holder in self.holders]

    def cut(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        self.up = False

    def close(self) -> None:
        self.over = True
        if hasattr(self, "relay"):
            self.relay.join()
        for end in self.ends:
            os.close(end)
        for holder in self.holders:
            holder.kill()
            holder.wait()

    def _add_host(self, address: str, other: str) -> None:
        holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 3600"], stdout=subprocess.PIPE)
        self.holders.append(holder)
        assert holder.stdout is not None
        with holder.stdout as stream:
            if not stream.readline():
                raise OSError("there is no right to make a network namespace")
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self.ends.append(end)
        name = f"end{len(self.ends)}-{os.getpid()}"
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _PACKETS_ONLY))
        _do("ip", "link", "set", name, "netns", str(holder.pid))
        for words in (
            f"link set {name} name {DEVICE} mtu {_LARGEST} up",
            f"address add {address} peer {other} dev {DEVICE}",
            "link set lo up",
        ):
            _do(*_inside(holder), "ip", *words.split())

    def _relay(self) -> None:
        """Carry every packet to the other end, when it is time."""
        waiting: deque[tuple[float, int, bytes]] = deque()
        while not self.over:
            pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
            for end in select.select(self.ends, [], [], min(pause, 0.1))[0]:
                packet = os.read(end, 2 * _LARGEST)
                if self.up:
                    waiting.append((time.monotonic() + self.delay_s, self.ends[end == self.ends[0]], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, end, packet = waiting.popleft()
                os.write(end, packet)


def _inside(holder: subprocess.Popen[bytes]) -> list[str]:
    return ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
