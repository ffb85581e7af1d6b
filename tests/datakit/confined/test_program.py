"""Programs from outside end as they do, and those that mean harm do none: no network, file or process but theirs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datakit.confined import program
from datakit.confined.program import Ending, Limits, run
from schemas.errors import ConfigError
from tests.sources import ROOT

QUICK = Limits(seconds=1)
needs_sandbox = pytest.mark.skipif(bool(program._barred()), reason="this machine cannot confine a program")
C = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
HARM = {
    "connects to a server of this machine": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "sends to the world": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))",
    "resolves a name": "import socket\nsocket.getaddrinfo('example.org', 80)",
    "connects to an abstract socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0{abstract}')",
    "reads a secret": "open({secret!r}).read()",
    "reads keys": "import os\nos.listdir({home!r} + '/.ssh')",
    "reads the workspace": "import os\nopen(os.path.join({root!r}, 'pyproject.toml')).read()",
    "reads the list of users": "open('/etc/passwd').read()",
    "reads an environment": "import os\nos.environ['QUIVER_TEST_KEY']",
    "reads this process": "open('/proc/{pid}/environ').read()",
    "has other files open":
        "import os\ndef there(n):\n    try: return os.fstat(n)\n    except OSError: return None\n"
        "assert any(map(there, range(4, 1024)))",
    "writes beside a secret": "open({secret!r} + '.new', 'w').write('x')",
    "writes to the libraries": "import os\nopen(os.path.join(os.path.dirname(os.__file__), 'x.py'), 'w')",
    "writes to the root": "open('/x', 'w')",
    "fills the disk": "with open('x', 'wb') as f:\n    for _ in range(4096): f.write(b'x' * (1 << 20))",
    "fills the disk in many files":
        "for n in range(64):\n    with open(str(n), 'wb') as f: f.write(b'x' * (1 << 20))",
    "fills memory": "x = bytearray(1 << 34)",
    "forks without end": "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(600)",
    "starts threads without end":
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    "kills this process": "import os\nos.kill({pid}, 9)",
    "kills its parent": "import os\nos.kill(os.getppid(), 14)\nimport time\ntime.sleep(5)",
    "kills all": "import os\nos.kill(-1, 9)\nos.kill({pid}, 0)",
    "traces its parent": C + "assert c.ptrace(16, 1, 0, 0) == 0",
    "traces this process": C + "assert c.ptrace(16, {pid}, 0, 0) == 0",
    "becomes root": "import os\nos.setuid(0)",
    "is root elsewhere": C + "assert c.unshare(0x10000000) == 0",
    "mounts": C + "assert c.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
    "changes the root": "import os\nos.chroot('/')",
    "makes a device": "import os, stat\nos.mknod('sda', 0o600 | stat.S_IFBLK, os.makedev(8, 0))",
    "renames the machine": "import socket\nsocket.sethostname('mine')",
    "ends well before its tests": "import sys\nsys.exit(0)",
    "ends at once": "import os\nos._exit(0)",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "writes a verdict": "import os\nos.write(3, b'passed ')\nos._exit(0)",
    "floods the verdict": "import os\nwhile True: os.write(3, b'x' * 4096)",
}  # fmt: skip
"""Programs that would pass if they did it."""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What is there to be reached: a secret, servers that listen, a key in the environment, this process."""
    monkeypatch.setenv("QUIVER_TEST_KEY", "key")
    (tmp_path / "secret").write_text("secret")
    abstract = f"quiver-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0{abstract}")
        local.listen()
        yield {
            "secret": str(tmp_path / "secret"), "root": str(ROOT), "pid": os.getpid(),
            "home": str(Path.home()), "port": server.getsockname()[1], "abstract": abstract,
        }  # fmt: skip


def left() -> list[str]:
    """Command lines of confined programs that still run below this process's own workers."""
    lines = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if "confined/worker.py" in line or 'compile(part, "program"' in line]


@needs_sandbox
def test_a_program_passes_where_all_of_it_runs() -> None:
    parts = [
        "import math, json, re, typing, collections, decimal, sqlite3, ssl",
        "def f(x): return 2 * x",
        "assert f(2) == 4",
    ]
    assert run(parts, QUICK) == Ending(True, "")
    assert run([*parts, "print('x' * 100000)", "open('note', 'w').write('x')"], QUICK).passed, "it may print and write"


@needs_sandbox
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError: invalid syntax (program, line 1)"),
        ("raise ValueError('\\x1b[31mred\\n' + 'x' * 9999)", "ValueError: \\u001b[31mred\\nx"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
    ],
)
def test_a_program_that_fails_says_why(text: str, why: str) -> None:
    ending = run([text], QUICK)
    assert not ending.passed and ending.why.startswith(why) and len(ending.why) <= 200 and ending.why.isprintable()


@needs_sandbox
def test_a_part_cannot_swallow_the_next() -> None:
    assert not run(["x = '''", "assert False"], QUICK).passed
    assert not run(["if False:\n    pass\nelse:\n    pass", "assert False"], QUICK).passed


@needs_sandbox
@pytest.mark.parametrize("name", HARM)
def test_harm_is_not_done(name: str, outside: dict[str, Any], tmp_path: Path) -> None:
    started = time.monotonic()
    ending = run([HARM[name].replace("{{", "{").format(**outside), "done = True"], QUICK)
    assert not ending.passed and ending.why, ending
    assert time.monotonic() - started < 60
    assert [path.name for path in tmp_path.iterdir()] == ["secret"] and (tmp_path / "secret").read_text() == "secret"
    assert not (ROOT / "x.py").exists() and not Path("/x").exists()


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "while True: pass",
        "import time\ntime.sleep(10 ** 6)",
        "while True: print('x' * 4096)",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "import os, time\nos.fork()\ntime.sleep(10 ** 6)",
        "try:\n    while True: pass\nexcept BaseException: pass\nwhile True: pass",
    ],
)
def test_what_does_not_end_is_ended(text: str) -> None:
    started = time.monotonic()
    assert run([text], QUICK).why in ("out of time", "ended with -9")
    assert time.monotonic() - started < 60


@needs_sandbox
def test_nothing_of_a_program_outlives_it(tmp_path: Path) -> None:
    """Neither one that starts another and goes, nor one whose parent is killed."""
    orphan = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)"
    )
    assert run([orphan], QUICK).passed
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom datakit.confined.program import *\n"
    code += "run(['import time; time.sleep(600)'], Limits(seconds=300))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while not left() and time.monotonic() < until:
        time.sleep(0.05)
    assert left(), "the program runs"
    parent.kill()
    parent.wait()
    while left() and time.monotonic() < until:
        time.sleep(0.05)
    assert left() == []


@needs_sandbox
def test_programs_in_threads_do_not_disturb_each_other() -> None:
    endings: dict[int, Ending] = {}

    def one(number: int) -> None:
        endings[number] = run(
            [f"import os\nopen('x', 'x').write('{number}')\nassert {number} % 2 == 0, {number}"], QUICK
        )

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [endings[number].passed for number in range(6)] == [True, False] * 3
    assert endings[3].why == "AssertionError: 3"


def test_without_namespaces_nothing_runs_and_the_refusal_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def barred(request: Any, seconds: float) -> tuple[str, bool]:
        return "no-sandbox [Errno 1] unshare: Operation not permitted", False

    monkeypatch.setattr(program, "_answer", barred)
    with pytest.raises(ConfigError) as raised:
        run(["1"], QUICK)
    assert raised.value.slug == "no-sandbox" and "unshare: Operation not permitted" in raised.value.found
    monkeypatch.setattr(program.sys, "platform", "darwin")
    program._barred.cache_clear()
    try:
        with pytest.raises(ConfigError, match="can confine them"):
            program.require()
    finally:
        program._barred.cache_clear()
