"""Every socket that a process and all that it starts ever listen on: looked at from its start to its end, in /proc."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_TABLES = ("tcp", "tcp6", "udp", "udp6")
_LISTEN, _UNCONNECTED = "0A", "07"


@dataclass
class Listening:
    """How the process ended, how often it was looked at, and the sockets: (protocol, address in hex of /proc)."""

    code: int
    output: str
    looks: int = 0
    processes: set[int] = field(default_factory=set)
    sockets: set[tuple[str, str]] = field(default_factory=set)

    @property
    def open_to_others(self) -> list[tuple[str, str]]:
        """Sockets that another machine can reach."""
        return sorted(each for each in self.sockets if not _is_loopback(each[1]))


def listen(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    on_look: Callable[[], None] = lambda: None,
    seconds: float = 240,
) -> Listening:
    """Run `command` in `folder` to its end, looking every few milliseconds; `on_look` is called each time."""
    log = folder / "listening.log"
    listening, until = Listening(-1, ""), time.monotonic() + seconds
    with log.open("wb") as output:
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            while child.poll() is None and time.monotonic() < until:
                listening.looks += 1
                on_look()
                family = _family(child.pid, folder)
                listening.processes.update(family)
                listening.sockets.update(_sockets(family))
                time.sleep(0.02)
        finally:
            child.kill()
            listening.code = child.wait()
    listening.output = log.read_text(errors="replace")
    return listening


def _family(root: int, folder: Path) -> list[int]:
    """`root` and all that it and they started, and who works in `folder`: forks that stand for a program do."""
    family = [root]
    for pid in family:
        with suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                family += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return family + [pid for pid in _working_in(folder) if pid not in family]


def _working_in(folder: Path) -> Iterator[int]:
    for name in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            if int(name) != os.getpid() and os.readlink(f"/proc/{name}/cwd") == str(folder):
                yield int(name)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _sockets(pids: Iterable[int]) -> Iterator[tuple[str, str]]:
    """What these processes listen on: TCP in the state LISTEN, UDP that is bound and not connected."""
    theirs = set()
    for pid in pids:
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{name}")
                    if target.startswith("socket:["):
                        theirs.add(target[8:-1])
    for table in _TABLES if theirs else ():
        wanted = _LISTEN if table.startswith("tcp") else _UNCONNECTED
        for line in _read(f"/proc/net/{table}").splitlines()[1:]:
            fields = line.split()
            if fields[3] == wanted and fields[9] in theirs:
                yield table, fields[1].partition(":")[0]


def _is_loopback(address: str) -> bool:
    """IPv4 127.0.0.0/8 or IPv6 ::1 (or the former mapped into the latter), as the kernel writes them."""
    if len(address) == 8:
        return address.endswith("7F")
    return address == "00000000000000000000000001000000" or (
        address.startswith("0000000000000000FFFF0000") and address.endswith("7F")
    )
