"""Who is writing: enough about a process to tell later, from another one, whether it still runs."""

from __future__ import annotations

import functools
import json
import os
import socket
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Owner:
    """A process, distinguished from later ones with the same pid by its start, boot and pid namespace."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: str
    nonce: str

    @staticmethod
    def mine() -> Owner:
        """The running process, with a fresh nonce."""
        boot, namespace = _here()
        return Owner(socket.gethostname(), boot, namespace, os.getpid(), _started(os.getpid()), os.urandom(16).hex())

    def dead(self) -> bool | None:
        """True or False where this process can tell; None for a process of another host or pid namespace."""
        boot, namespace = _here()
        if self.host != socket.gethostname() or not boot:
            return None
        if self.boot != boot:
            return True
        if self.namespace != namespace:
            return None
        return _started(self.pid) != self.started

    def is_this_process(self) -> bool:
        """Whether the running process wrote this, now or earlier."""
        return replace(self, nonce="") == replace(Owner.mine(), nonce="")

    def to_bytes(self) -> bytes:
        """The JSON in which a claim is written."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Owner | None:
        """Inverse of `to_bytes`; None for anything else."""
        try:
            fields = json.loads(data)
            texts = [fields[name] for name in ("host", "boot", "namespace", "started", "nonce")]
            pid = fields["pid"]
        except Exception:  # torn or hostile bytes: whatever the parser makes of them, nobody known has written them
            return None
        if any(type(text) is not str for text in texts) or type(pid) is not int or not 0 < pid < 1 << 32:
            return None
        host, boot, namespace, started, nonce = texts
        return Owner(host, boot, namespace, pid, started, nonce)


@functools.cache
def _here() -> tuple[str, str]:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip(), os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""


def _started(pid: int) -> str:
    """Start time of a live process in clock ticks since boot; empty if there is none (a zombie counts as
    none).
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
