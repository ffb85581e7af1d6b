"""A Ray cluster for this process: the one at an address, the one that it is connected to already, or one of its own.

A cluster of one's own lasts as long as its block. It listens on the loopback interface alone and takes no message
without its token, it has no dashboard, sends no usage report, and keeps its files in a folder that only this user can
open. Ray moves names of shards here and what a manifest says of them, no tables, so its object store is small.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType

from schemas.errors import ConfigError, ServiceError, printable
from schemas.installed import missing_library
from schemas.store.scratch import Scratch

ADDRESS = "RAY_ADDRESS"
"""Ray's own variable for the address of a running cluster."""

_STORE_BYTES = 200 << 20
_REACH_SECONDS = 5.0
_QUIET = {"log_to_driver": False, "configure_logging": False, "logging_level": "error"}
_LOOPBACK = "127.0.0.1"
_PRIVATE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # what Ray asks before it takes the loopback interface for the node's own, on any system
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}


def library() -> ModuleType:
    """Ray; `ConfigError` where it is not installed."""
    hook = sys.excepthook
    try:
        import ray
    except ImportError as fault:
        raise missing_library("executor = ray", "ray", "ray", kept="nothing was started") from fault
    finally:
        sys.excepthook = hook
    return ray


@contextmanager
def connected(address: str = "") -> Iterator[ModuleType]:
    """Ray, connected: as this process is already; otherwise to the cluster at `address` (HOST:PORT), to that which
    `RAY_ADDRESS` names, or to one of its own. `ServiceError` (13) where it does not answer.
    """
    ray = library()
    address = address or os.environ.get(ADDRESS, "")
    if ray.is_initialized():
        yield ray
    elif not address:
        with own_cluster():
            yield ray
    else:
        _check_answers(address)
        try:
            with _undisturbed():
                ray.init(address=address, **_QUIET)
                _mute()
        except Exception as fault:  # Ray has no class of its own for a cluster that it cannot join
            raise _no_cluster(address, fault) from fault
        try:
            yield ray
        finally:
            with _undisturbed():
                ray.shutdown()


@contextmanager
def own_cluster(cpus: int | None = None, gpus: int | None = None) -> Iterator[str]:
    """A cluster of this machine for as long as the block lasts, this process connected; its address. Meanwhile the
    variables of Ray say to other processes what they need to join. `cpus`, `gpus`: what it may use; None: all.
    """
    before = {name: os.environ.get(name) for name in (*_PRIVATE, ADDRESS, "RAY_AUTH_TOKEN")}
    with Scratch("quiver-ray-") as folder:
        try:
            os.environ.pop(ADDRESS, None)
            os.environ.update(_PRIVATE, RAY_AUTH_TOKEN=secrets.token_hex(32))
            yield _started(library(), folder, cpus, gpus)
        finally:
            with _undisturbed():
                library().shutdown()
            _restore(before)


def _started(ray: ModuleType, folder: str, cpus: int | None, gpus: int | None) -> str:
    try:
        with _undisturbed():
            context = ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                _temp_dir=folder,
                **_QUIET,
            )
            _mute()
    except Exception as fault:  # as above
        raise _no_cluster("this machine", fault) from fault
    if context.address_info["node_ip_address"] != _LOOPBACK:
        raise ConfigError(
            "ray-listens",
            "Ray would listen on the network: it was imported before its cluster was asked for",
            expected=_LOOPBACK,
            found=str(context.address_info["node_ip_address"]),
            kept="nothing was started",
            next="leave the import of ray to Quiver, or start a cluster of your own and name its address",
        )
    address: str = context.address_info["address"]
    os.environ[ADDRESS] = address
    return address


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Around what connects and disconnects. Ray takes SIGTERM and exceptions that nobody catches for itself, and puts
    the working folder on the path of its workers, before what is installed: it gets the root folder.
    """
    main = threading.current_thread() is threading.main_thread()
    handler, hook, here = signal.getsignal(signal.SIGTERM), sys.excepthook, os.getcwd()
    os.chdir("/")
    try:
        yield
    finally:
        os.chdir(here)
        sys.excepthook = hook
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _mute() -> None:
    """Ray prints what befalls its workers on standard output, which is for results: it is counted in the progress."""
    from ray._private.worker import global_worker

    with suppress(AttributeError):
        global_worker.threads_stopped.set()
        global_worker.gcs_error_subscriber.close()


def _check_answers(address: str) -> None:
    """Ray itself would wait for a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise ConfigError(
            "ray-address",
            f"{printable(address)} is no address of a Ray cluster",
            expected="HOST:PORT, as `ray start --head` prints it (a client's ray://... is not taken)",
            kept="nothing was started",
            next="correct [quiver] ray_address or RAY_ADDRESS; without either a cluster of this machine is started",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as fault:
        raise _no_cluster(address, fault) from fault


def _no_cluster(address: str, fault: Exception) -> ServiceError:
    return ServiceError(
        "no-ray",
        f"no Ray cluster at {printable(address)}",
        expected="a cluster of the same versions of Ray and Python, whose token is in RAY_AUTH_TOKEN or ~/.ray",
        found=printable(fault, 300),
        kept="every finished stage",
        next="ray status, or leave the address out: then a cluster of this machine is started",
    )
