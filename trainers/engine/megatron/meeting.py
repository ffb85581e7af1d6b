"""Where the processes of a world find each other, and on which network interface they talk.

On one machine they meet through a file (`QUIVER_MEETING`: a folder that only this user can open) and talk over the
loopback interface. On several, the first one opens a store at MASTER_ADDR alone, not on every interface as torch does
by itself, and all talk over the interface that leads there. A store knows no passwords: whoever reaches that address
is trusted (docs/launching.md). Under a user's own torchrun the store is torchrun's.
"""

from __future__ import annotations

import functools
import os
import socket
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from schemas.errors import ServiceError, printable
from trainers.launch.local import MEETING

_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def alone() -> dist.Store:
    """The store of a world of one process; what its libraries open stays on the loopback interface."""
    _talk_over(_loopback(), always=True)
    return dist.HashStore()


@functools.cache
def meet(rank: int, world: int, limit: timedelta) -> dist.Store:
    """Where the processes find each other, for as long as they live. A world after the first needs names of its own in
    it: what the first one left there would be taken for addresses.
    """
    folder = os.environ.get(MEETING)
    if folder:
        _talk_over(_loopback(), always=True)
        store = dist.FileStore(str(Path(folder) / "store"), world)
        store.set_timeout(limit)
        return store
    host = os.environ.get("MASTER_ADDR", "")
    one_host = host in _LOOPBACK or os.environ.get("LOCAL_WORLD_SIZE") == str(world)
    _talk_over(_loopback() if one_host else _towards(host), always=False)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or not host:
        return next(iter(dist.rendezvous("env://", timeout=limit)))[0]
    return _store(host, int(os.environ["MASTER_PORT"]), rank, world, limit)


def _store(host: str, port: int, rank: int, world: int, limit: timedelta) -> dist.Store:
    """torch's own store, opened by the first rank at the address of `host` and nowhere else."""
    if rank != 0:
        return dist.TCPStore(host, port, world, is_master=False, timeout=limit)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as fault:
        raise ServiceError(
            "no-meeting",
            f"the first rank cannot open {printable(host)} port {port}: {fault.strerror or fault}",
            expected="MASTER_ADDR to be an address of the host of rank 0, MASTER_PORT to be free",
            found=printable(socket.gethostname()),
            kept="nothing was started",
            next="set MASTER_ADDR and MASTER_PORT, then run the same command again",
        ) from fault
    return dist.TCPStore(
        host, port, world, is_master=True, timeout=limit, master_listen_fd=listener.detach()
    )  # the store owns the socket from here on


def _talk_over(interface: str, *, always: bool) -> None:
    """Bind what gloo and NCCL open to `interface`; unless `always`, what a user named stays."""
    for name in _INTERFACES if interface else ():
        if always:
            os.environ[name] = interface
        else:
            os.environ.setdefault(name, interface)


def _loopback() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), "")


def _towards(host: str) -> str:
    """The interface through which this machine reaches `host`; empty where that is unknown."""
    import psutil

    try:
        family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect(address)
            mine = way.getsockname()[0]
    except OSError:
        return ""
    named = [name for name, all_ in psutil.net_if_addrs().items() if any(each.address == mine for each in all_)]
    return named[0] if named else ""
