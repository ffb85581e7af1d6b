"""The process that is forked: `python server.py commands|ranks SOCKET LISTENING`. At the first request it imports
what those import; then it forks a child per request.

A child of `commands` becomes what a console script is at its start: words, environment, folder, path, streams and
signals are the request's, and what our modules took from their process while they were imported is taken again. Then
the script itself runs in it, and the interpreter ends with it. The fork server that a command starts is a fork too: of
a twin that was put aside before the command began. A child of `ranks` forks the processes of one world, as torchrun
would start them; or it is the program for which a command started a `stand_in`, which asks at LISTENING.

Little but imports happens here before a fork: no pool of Arrow, duckdb or torch has started, which is looked at.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing.util
import os
import runpy
import select
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

COMPARISON = "trainers.engine.weights.comparison"
_STAGES = ("numpy.ma", "numpy.random", "tokenizers", "pyarrow.json", "multiprocessing.popen_forkserver")
_EVENTS = ("tensorboard.compat.proto.summary_pb2", "tensorboard.summary.writer.record_writer")
IMPORTED = {
    "commands": (
        "luigi.cmdline",
        "pipelines",
        "quiver.console",
        "pipelines.runtime.workers",
        "datakit.apply",
        *_STAGES,
    ),
    "ranks": (
        *("torch._dynamo", "trainers.run", "trainers.engine.training.loop", COMPARISON),
        *("transformers.modeling_utils", *_EVENTS),
    ),
}
"""What a command imports, and what its first stage does; what a rank does."""

PROGRAMS = (
    *("trainers.run", "trainers.launch.spawn", COMPARISON, "pipelines.online"),
    "tests.pipelines.launch.faulty",
)
"""What a command starts that imports the engine, or starts what does; what stands for the first in tests of faults."""

ROOM = 1 << 16
"""Bytes of a request."""

_FORK_SERVER = "from multiprocessing.forkserver import main"
_INHERITED = sys.path[1:]
"""What is importable without PYTHONPATH and without a script's folder."""


def serve(asked: socket.socket, listening: socket.socket, parent: int) -> Callable[[], None]:
    """Answer requests to their end: the pid, then the exit code, of a child each. Returns in every child, with what is
    to be done there; exits here, and all children with it, when `asked` is closed or `parent`, a pidfd, has ended: a
    fork of that one may hold `asked` open. A child goes with a `stand_in` that goes before it.
    """
    doors = selectors.DefaultSelector()
    for waited in (asked, listening, parent):
        doors.register(waited, selectors.EVENT_READ)
    running: dict[socket.socket, int] = {}
    while True:
        for key, _ in doors.select():
            door: Any = key.fileobj
            if door == parent:
                leave_none(running.values())
            elif door is listening:
                doors.register(door.accept()[0], selectors.EVENT_READ)
            elif key.data is not None:
                _, status = os.waitpid(running.pop(key.data), 0)
                tell(key.data, os.waitstatus_to_exitcode(status))
                doors.unregister(door)
                os.close(door)
            else:
                text, fds, _, _ = socket.recv_fds(door, ROOM, 3)
                if not text:
                    if door is asked:
                        leave_none(running.values())
                    if door in running:
                        os.kill(running[door], signal.SIGKILL)
                    doors.unregister(door)
                    door.close()
                    continue
                child = os.fork()
                if not child:
                    leave(doors)
                    return child_of(json.loads(text), fds)
                for fd in fds:
                    os.close(fd)
                running[door] = child
                doors.register(os.pidfd_open(child), selectors.EVENT_READ, door)
                tell(door, child)


def leave_none(children: Iterable[int]) -> NoReturn:
    """End them, and this process."""
    for child in children:
        os.kill(child, signal.SIGKILL)
    os._exit(0)


def tell(door: socket.socket, number: int) -> None:
    """A line to the one who asked, who may be gone."""
    with suppress(OSError):
        door.sendall(f"{number}\n".encode())


def leave(doors: selectors.BaseSelector) -> None:
    """Close, in a child, what the server waits for."""
    waited = [key.fileobj for key in doors.get_map().values()]
    doors.close()
    for one in waited:
        os.close(one) if isinstance(one, int) else one.close()  # type: ignore[union-attr]


def child_of(job: dict[str, Any], fds: Sequence[int]) -> Callable[[], None]:
    """What the child of a request does."""
    does = world if "ranks" in job else program if "module" in job else become
    return lambda: does(job, fds)


def become(job: dict[str, Any], fds: Sequence[int]) -> None:
    """Be the console script of `job`, with `fds` for its streams."""
    aside = twin(fds)
    if aside is None:
        return
    place(job, fds, (0, 1, 2))
    script, *words = job["words"]
    stand_in_for(PROGRAMS, lambda: job["address"])
    sys.argv, sys.orig_argv = [script, *words], [sys.executable, script, *words]
    sys.path.insert(0, os.path.dirname(script))
    multiprocessing.util.spawnv_passfds = aside
    remember_anew()
    runpy.run_path(script, run_name="__main__")


def world(job: dict[str, Any], fds: Sequence[int]) -> None:
    """Be what starts the ranks of `job` and waits for them; when one fails, all go."""
    place(job, fds, (0, 1, 2))
    sys.path.insert(0, job["folder"])
    module, *words = job["words"]
    goes = importlib.import_module("trainers.launch.child").gone_with_parent(signal.SIGKILL)
    running: dict[int, int] = {}
    for rank in range(job["ranks"]):
        child = os.fork()
        if not child:
            goes()
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["ranks"]} if job["ranks"] > 1 else {}
            os.environ.update({name: str(value) for name, value in names.items()})
            run_module(module, words)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(0)  # taking all apart that was imported takes longer than many a program here
        running[child] = rank
    failed = False
    while running:
        child, status = os.wait()
        del running[child]
        if status and not failed:
            failed = True
            for other in running:
                os.kill(other, signal.SIGKILL)
    sys.exit(int(failed))


def program(job: dict[str, Any], fds: Sequence[int]) -> None:
    """Be the program that a command started: in a session of its own, what it prints unbuffered."""
    os.setsid()
    place(job, fds, (0, 1, 2))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    stand_in_for(PROGRAMS, lambda: job["address"])
    run_module(job["module"], job["words"])


def run_module(module: str, words: Sequence[str]) -> None:
    """As `python -m module words`."""
    own_home()
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def stand_in_for(programs: Sequence[str], address: Callable[[], str]) -> None:
    """Have our interpreters of these modules be stand-ins: what is forked at `address` has their imports. What takes
    `module` out of `interpreter` is imported later.
    """
    interpreter = importlib.import_module("schemas.process.interpreter")
    start = interpreter.module

    def started(name: str, *words: str, **more: Any) -> list[str]:
        return [*stand_in(address()), name, *words] if name in programs else start(name, *words, **more)

    interpreter.module = started


def place(job: dict[str, Any], fds: Sequence[int], numbers: Sequence[int]) -> None:
    """Take on the environment of `job`, its PYTHONPATH, folder and umask, and descriptors under their numbers."""
    environment = job["environment"]
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *_INHERITED]
    os.chdir(job["folder"])
    os.umask(job["umask"])
    high = [importlib.import_module("fcntl").fcntl(fd, 0, 100) for fd in fds]  # F_DUPFD: out of the numbers' way
    for fd in fds:
        os.close(fd)
    for fd, number in zip(high, numbers, strict=True):
        os.dup2(fd, number)
        os.close(fd)


def remember_anew() -> None:
    """What modules keep of the process, the words and the signals with which they were imported."""
    loaded: dict[str, Any] = {**sys.modules}
    importlib.reload(loaded["luigi.cmdline"])  # its function has the words for a default
    own_home()
    doors, command = importlib.reload(loaded["trainers.doors"]), loaded["pipelines.runtime.command"]
    loaded["pipelines.cli.invocation"]._given = sys.argv[1:]
    loaded["luigi.interface"]._run = command.door if doors.is_command() else command.run


def stand_in(address: str) -> list[str]:
    """The command that comes before a module's name and words."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("stand_in.py")), address]


def own_home() -> None:
    """This process, not the one that was forked, is the one whose children a fork server may start."""
    for name in ("schemas.process.interpreter", "datakit.run.runner"):
        if name in sys.modules:
            vars(sys.modules[name])["_HOME"] = os.getpid()


def twin(streams: Sequence[int]) -> Callable[[bytes, Sequence[Any], Sequence[int]], int] | None:
    """Put a fork of this process aside; what starts a process, in place of `multiprocessing`'s own: the twin where a
    fork server is wanted. None in the twin itself, once it has been one.
    """
    here, there = socket.socketpair()
    child = os.fork()
    if child:
        there.close()
    else:
        here.close()
        for fd in streams:
            os.close(fd)
        be_fork_server(there)
        return None
    start = multiprocessing.util.spawnv_passfds

    def started(path: bytes, words: Sequence[Any], fds: Sequence[int]) -> int:
        if not str(words[-1]).startswith(_FORK_SERVER):
            return start(path, words, fds)
        numbers = [0, 1, 2, *fds]
        umask = os.umask(0o077)
        os.umask(umask)
        process = {"environment": dict(os.environ), "folder": os.getcwd(), "umask": umask}
        job = {"code": words[-1], "numbers": numbers, **process}
        job["blocked"] = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
        socket.send_fds(here, [json.dumps(job).encode()], numbers)
        here.close()
        return child

    return started


def be_fork_server(asked: socket.socket) -> None:
    """Wait until one is wanted, be it, and return; exit where none is."""
    text, fds, _, _ = socket.recv_fds(asked, ROOM, 32)
    asked.close()
    if not text:
        os._exit(0)
    job = json.loads(text)
    signal.pthread_sigmask(signal.SIG_SETMASK, job["blocked"])
    place(job, fds, job["numbers"])
    sys.argv = ["-c"]
    remember_anew()
    main = sys.modules["__main__"] = ModuleType("__main__")
    exec(job["code"], vars(main))  # noqa: S102 - multiprocessing's own line


def prepare(kind: str) -> None:
    """Import, and make what every command makes first and keeps (`pipelines.cli.parsers`)."""
    for name in IMPORTED[kind]:
        importlib.import_module(name)
    if kind == "commands":
        importlib.import_module("luigi.cmdline_parser").CmdlineParser._build_parser()
    gc.freeze()
    if kind == "commands":
        importlib.import_module("duckdb")  # what is frozen of it, it would call leaked


def main() -> None:
    """Import at the first request, look whether this may be forked, and serve."""
    kind, *numbers = sys.argv[1:]
    asked, listening = (socket.socket(fileno=int(number)) for number in numbers)
    sys.argv = ["-c"]  # what is imported here belongs to no command yet
    parent = os.pidfd_open(os.getppid())
    select.select([asked, listening, parent], [], [])
    prepare(kind)
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert threading.active_count() == 1 and len(threads - {"jemalloc_bg_thd"}) <= 1, f"not to be forked: {threads}"
    serve(asked, listening, parent)()


if __name__ == "__main__":
    main()
