"""`run`: a console script in a fork of a process that has imported it. `launched`: ranks in forks of one that has
imported the engine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from tests.warm.server import ROOM, stand_in

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ("luigi.cfg", "client.cfg")
"""Files that are read while `luigi` is imported: a command beside one is a process of its own."""

_OPTIONS = {"commands": (), "ranks": ("-W", "ignore")}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""What a comparison with transformers sets before it is imported."""
_OF_INTERPRETERS = ("PYTHON", "LUIGI", "LD_", "OMP_", "MALLOC", "LC_", "LANG")
"""Environment that is heeded before the first of our lines runs."""


class Server:
    """The process that is forked, and the way to it."""

    def __init__(self, kind: str) -> None:
        self._asked, there = socket.socketpair()
        self._folder = tempfile.TemporaryDirectory(prefix="quiver-warm-")
        self.address = str(Path(self._folder.name) / kind)
        program = [sys.executable, *_OPTIONS[kind], str(Path(__file__).with_name("server.py"))]
        with there, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(self.address)
            listening.listen()
            doors = there.fileno(), listening.fileno()
            self._process = subprocess.Popen(
                [*program, kind, *map(str, doors)], cwd="/", env={**_environment(), **_OFFLINE}, pass_fds=doors
            )
        self._answers = self._asked.makefile("r")

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)`."""
        umask = os.umask(0o077)
        os.umask(umask)
        job = {"words": [*words], "folder": str(folder), "environment": {**environment}, "umask": umask, **more}
        request = json.dumps(job).encode()
        assert len(request) < ROOM
        output, errors = _Pipe(), _Pipe()
        socket.send_fds(self._asked, [request], [0, output.writing, errors.writing])
        for pipe in (output, errors):
            pipe.read()
        child, late = int(self._answers.readline()), threading.Event()

        def end() -> None:
            late.set()
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

        watch = threading.Timer(timeout, end)
        watch.start()
        code = int(self._answers.readline())
        watch.cancel()
        watch.join()
        texts = [pipe.text() for pipe in (output, errors)]
        if late.is_set():
            raise subprocess.TimeoutExpired(list(words), timeout, *texts)
        return subprocess.CompletedProcess(list(words), code, *texts)

    def end(self) -> None:
        """End it."""
        self._answers.close()
        self._asked.close()
        self._process.wait()
        self._folder.cleanup()


class _Pipe:
    """What a child writes, read to the end of the last process that holds it."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        self._data = b""
        self._thread = threading.Thread(target=self._read)

    def read(self) -> None:
        """Begin, now that the child has its end."""
        os.close(self.writing)
        self._thread.start()

    def _read(self) -> None:
        with os.fdopen(self._reading, "rb") as pipe:
            self._data = pipe.read()

    def text(self) -> str:
        """All that came."""
        self._thread.join()
        return self._data.decode().replace("\r\n", "\n").replace("\r", "\n")


_servers: dict[str, Server] = {}


def run(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the console script `words[0]` in a fork. What an interpreter looks at before our first line is the server's,
    so where it differs (`fresh`), no fork can be what the command would be.
    """
    assert not fresh(words, folder, environment), "this one needs an interpreter of its own"
    return _server("commands").run(words, folder, environment, timeout, address=address())


def address() -> str:
    """Where a `stand_in` asks for programs."""
    return _server("ranks").address


def python() -> list[str]:
    """What stands for `python -m` before a module's name and words: it is forked."""
    return stand_in(address())


def launched(ranks: int, module: str, *words: object, timeout: float = 400) -> None:
    """Run `python -m module words` in so many processes of one world, or in one without; AssertionError where one
    fails.
    """
    with tempfile.TemporaryDirectory() as meeting:
        given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        given |= {"QUIVER_MEETING": meeting} if ranks > 1 else {}
        done = _server("ranks").run([module, *map(str, words)], ROOT, given, timeout, ranks=ranks)
    assert done.returncode == 0, done.stderr[-4000:]


def _server(kind: str) -> Server:
    if kind not in _servers:
        _servers[kind] = Server(kind)
    return _servers[kind]


def fresh(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> bool:
    """Whether a command needs an interpreter of its own: for what it finds in its environment, for a configuration
    file, for a scheduler, all of which count while its modules are imported.
    """
    ours = {name: value for name, value in environment.items() if name.startswith(_OF_INTERPRETERS)}
    theirs = {name: value for name, value in _environment().items() if name.startswith(_OF_INTERPRETERS)}
    ours.pop("PYTHONPATH", None)
    if ours != theirs or any((Path(folder) / name).exists() for name in CONFIGURATION):
        return True
    places = environment.get("PYTHONPATH", "").split(os.pathsep)
    return any((Path(place) / "sitecustomize.py").exists() for place in places) or any("scheduler" in w for w in words)


@cache
def _environment() -> Mapping[str, str]:
    """That of the server: what this process was given before any test changed it."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("LUIGI")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def end() -> None:
    """End what was started."""
    while _servers:
        _servers.popitem()[1].end()
