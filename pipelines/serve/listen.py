"""The port, from start to end: bound before the models are opened, closed when a signal comes.

SIGTERM and SIGINT: no new request is taken, what is under way has `grace` seconds, and the process ends with 75.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.serve.models import Served
from schemas.errors import ConfigError, ConflictError, StorageError, printable
from schemas.installed import missing_library
from schemas.process import program
from schemas.process.terminal import error_text

if TYPE_CHECKING:
    import uvicorn

_BACKLOG = 2048
_KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: a busy client that sends just as it is closed meets a reset."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server listens and works. `slots`: answers decoded at once; `queue`: that wait at most; `threads` of torch
    on the CPU (None: as it is); `grace`: seconds for what is under way at the end; `root`: the workspace
    from which weights are taken while it runs (empty: none).
    """

    host: str = "127.0.0.1"
    port: int = 8000
    open_to_network: bool = False
    token: str = ""
    slots: int = 64
    queue: int = 256
    threads: int | None = None
    grace: float = 10.0
    root: str = ""


def require_library() -> None:
    """`ConfigError` where starlette or uvicorn is not installed."""
    for library in ("starlette", "uvicorn"):
        try:
            __import__(library)
        except ImportError as fault:
            raise missing_library("quiver serve", library, "serve", kept="nothing was started") from fault


def bound(settings: Settings) -> socket.socket:
    """The socket at its place, not listening yet; `ConfigError` for a host that others reach and nobody opened to them,
    `ConflictError` for a port that is taken.
    """
    host, port = settings.host, settings.port
    if not is_loopback(host):
        _require_opened(settings)
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as fault:
        raise ConfigError(
            "bad-address", f"{printable(host)} is no address of this machine", found=str(fault),
            kept="nothing was started",
            next="--host 127.0.0.1",
        ) from fault  # fmt: skip
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
    except OSError as fault:
        listener.close()
        if fault.errno == errno.EADDRINUSE:
            raise ConflictError(
                "port-taken",
                f"port {port} is taken by another program",
                expected=f"a free port at {printable(host)}",
                kept="nothing was started",
                next=f"--port {port + 1}",
            ) from fault
        raise ConfigError(
            "bad-address",
            f"{printable(host)}, port {port}: {fault.strerror}",
            kept="nothing was started",
            next="--host 127.0.0.1 --port 8000",
        ) from fault
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_opened(settings: Settings) -> None:
    if not settings.open_to_network:
        raise ConfigError(
            "open-host",
            f"at {printable(settings.host)} other machines would reach the server, and what they send is not encrypted",
            expected="127.0.0.1, and a tunnel (ssh -L) or a proxy with TLS for other machines; or that flag",
            found=printable(settings.host),
            kept="nothing was started",
            next="--open-to-network",
        )
    if not settings.token:
        raise ConfigError(
            "open-host",
            "a server that other machines reach has a token",
            expected="--no-token on the loopback interface alone",
            kept="nothing was started",
            next="leave --no-token out",
        )


def served(
    settings: Settings,
    listener: socket.socket,
    policy: Served | None,
    reward: Served | None,
    lines: Callable[[str], str],
) -> Iterator[str]:
    """Listen, yield what to say of it (`lines` of its address), and serve until a signal comes."""
    listener.listen(_BACKLOG)
    host, port = listener.getsockname()[:2]
    yield lines(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    asyncio.run(serve(settings, listener, policy, reward))


async def serve(
    settings: Settings,
    listener: socket.socket,
    policy: Served | None,
    reward: Served | None,
    started: Callable[[uvicorn.Server], object] = lambda _: None,
) -> None:
    """Serve on `listener` until a signal comes, or whoever was handed the server as it `started` asks it to end."""
    import uvicorn

    from pipelines.serve.answer_queue import AnswerQueue
    from pipelines.serve.app import Access, App
    from pipelines.serve.metrics import Metrics
    from trainers.engine.inference.continuous import ContinuousDecoder
    from trainers.engine.inference.decoding_thread import DecodingThread

    answer_queue = AnswerQueue(settings.queue, Metrics())

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for one in self.servers:
                one.close()
            await answer_queue.end(settings.grace)
            await super().shutdown(sockets)

    generator = policy.generator if policy else None
    weights = policy.weights_digest if policy else ""
    decoder = ContinuousDecoder(generator, slots=settings.slots, weights=weights) if generator else None
    models = {one.name: one.network for one in (policy, reward) if one}
    with DecodingThread(
        decoder, models, deliver=answer_queue.deliver, report=report, threads=settings.threads
    ) as thread:
        answer_queue.thread = thread
        names = {"127.0.0.1", "localhost", "::1", settings.host.lower()}
        if settings.open_to_network:
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        access = Access(names=names, any_address=settings.open_to_network, token=settings.token, root=settings.root)
        app = App(answer_queue, policy, reward, access, report).asgi()
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False,
            timeout_graceful_shutdown=2, timeout_keep_alive=_KEEP_ALIVE,
        )  # fmt: skip
        server = Server(config)
        started(server)
        await server.serve([listener])


def report(fault: BaseException) -> None:
    """Say a fault of ours on standard error: one line, the traceback in a private file."""
    if isinstance(fault, StorageError):
        error: Exception = fault
    else:
        error = program.bug("".join(traceback.format_exception(fault)))
    print(error_text(error), file=sys.stderr, flush=True)  # type: ignore[arg-type]
