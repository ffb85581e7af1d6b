"""How commands end: with their code, whatever still runs; without a traceback when they are asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.process import interpreter
from tests.pipelines.commands import LUIGI, environment
from tests.tail import late

BUSY = """
# The command is over while a thread of Arrow's pool is inside a Python file: what aborts an interpreter that ends.
import sys, time
import pyarrow as pa
import pyarrow.csv as csv

class File:
    closed, reads = False, 0
    def read(self, size=-1):
        self.reads += 1
        time.sleep(0.3 if self.reads > 2 else 0)
        return b"1,2\\n" * 50000
    def close(self): ...
    def readable(self): return True
    def seekable(self): return False
    def writable(self): return False

def main():
    global reader
    options = csv.ReadOptions(column_names=["a", "b"], block_size=100000)
    reader = csv.open_csv(pa.PythonFile(File(), mode="r"), read_options=options)
    reader.read_next_batch()
    print("error[12/no-space]: the last word", file=sys.stderr)
    return 12

if sys.argv[1] == "plain":
    sys.exit(main())
from schemas.process import program
program.run(main)
"""


def ended(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)


def test_a_thread_of_a_library_cannot_take_the_exit_code() -> None:
    plain = ended(BUSY, "plain")
    assert plain.returncode == -signal.SIGABRT, "Python itself does not mind any more: is `leave` still needed?"
    done = ended(BUSY, "ours")
    assert done.returncode == 12, done.stderr
    assert done.stderr == "error[12/no-space]: the last word\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_exit_code_of_500_is_lost_under_load() -> None:
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: ended(BUSY, "ours").returncode, range(500)))
    assert codes == [12] * 500


LEAVES = """
import atexit, sys, threading, time
from schemas.process import program

def late():
    time.sleep(0.2)
    print("thread")

def main():
    threading.Thread(target=late).start()
    atexit.register(print, "handler")
    print("main")
    return {main}

program.run(main)
"""


def test_leaving_joins_threads_runs_handlers_and_flushes() -> None:
    done = ended(LEAVES.format(main="7"))
    assert (done.returncode, done.stdout.split(), done.stderr) == (7, ["main", "thread", "handler"], "")
    assert ended(LEAVES.format(main="sys.exit('no')")).returncode == 1


def test_a_bug_is_one_line_and_a_file_that_is_ones_own(tmp_path: Path) -> None:
    code = "from schemas.process import program; program.run(lambda: {}['x'])"
    given = environment(TMPDIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error[1/bug]: KeyError: 'x' (traceback in ")
    assert done.stderr.count("\n") == 1
    (file,) = tmp_path.glob("quiver-bug-*")
    assert file.stat().st_mode & 0o777 == 0o600 and "Traceback" in file.read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_no_success() -> None:
    code = "from schemas.process import program; program.run(lambda: print('x') or 0)"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], env=environment(), stdout=full, check=False)
    assert done.returncode == 12


DOORS = {
    "run": interpreter.module("trainers.run", "none.json"),
    "adopt": interpreter.module("trainers.adopt", ".", "out"),
    "export": interpreter.module("trainers.export", "none", "out"),
    "merge": interpreter.module("trainers.merge", "none", "out"),
    "launch": interpreter.module("trainers.launch", "none.json"),
    "luigi": [str(LUIGI), "--module", "pipelines", "AdoptModel", "--folder", "."],
}


@pytest.mark.parametrize("door", ["export", "launch"])
def test_a_mistake_of_the_user_is_its_text_and_its_code(door: str, tmp_path: Path) -> None:
    done = subprocess.run(
        DOORS[door], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (2, 10, 11, 12) and done.stderr.startswith(f"error[{done.returncode}/"), done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


INTERRUPTED = [(door, signal.SIGTERM) for door in DOORS]
INTERRUPTED += [(d, signal.SIGINT) if d in ("luigi", "run") else late(d, signal.SIGINT) for d in DOORS]


@pytest.mark.parametrize(("door", "number"), INTERRUPTED)
def test_a_signal_while_a_command_starts_shows_no_traceback(door: str, number: int, tmp_path: Path) -> None:
    """A library that is imported takes its time; then the signal comes."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "pyarrow.py").write_text(f"import time; open({str(tmp_path / 'here')!r}, 'w').close(); time.sleep(60)")
    given = environment()
    given["PYTHONPATH"] = os.pathsep.join([str(slow), given["PYTHONPATH"]])
    command = subprocess.Popen(DOORS[door], cwd=tmp_path, env=given, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "here").exists() and time.monotonic() < until:
            assert command.poll() is None, command.communicate()
            time.sleep(0.02)
        command.send_signal(number)
        output = command.communicate(timeout=60)[1]
    finally:
        command.kill()
    assert command.returncode == 75 and output.startswith("error[75/stopped]: stopped on request\n"), output
    assert "Traceback" not in output


def test_a_signal_in_the_middle_lets_a_command_clean_up(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from schemas.process import program\n"
        "def main():\n"
        "    try:\n"
        "        os.kill(os.getpid(), getattr(signal, sys.argv[1])); time.sleep(30)\n"
        "    finally:\n"
        "        print('clean')\n"
        "program.run(main)"
    )
    for number in interpreter.STOPS:
        done = ended(code, number.name)
        assert (done.returncode, done.stdout) == (75, "clean\n"), number
        assert "Traceback" not in done.stderr and done.stderr.startswith("error[75/stopped]")


QUIVER = str(LUIGI.with_name("quiver"))
HELP = interpreter.module("trainers.run", "--help")
IMPORT = [str(LUIGI), "--module", "pipelines", "Import", "--files", "a.jsonl", "--format", "prompts"]
ENDS = [
    ("quiver ops", [QUIVER, "ops"], 0),
    late("quiver nosuch", [QUIVER, "nosuch"], 2, id="quiver nosuch"),
    late("luigi --help", [str(LUIGI), "--module", "pipelines", "--help"], 0, id="luigi --help"),
    ("luigi without a folder", DOORS["luigi"], 2),
    ("run --help", HELP, 0),
    late("run without a file", DOORS["run"], 2, id="run without a file"),
]


def with_streams(command: list[str], streams: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`command` started by a shell that closes its standard streams, or points them elsewhere."""
    shell = ["/bin/sh", "-c", f'exec "$@" {streams}', "sh", *command]
    return subprocess.run(
        shell, cwd=folder, env=environment(TMPDIR=str(folder)), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("name", "command", "code"), ENDS)
def test_streams_that_are_closed_or_full_take_no_exit_code(
    name: str, command: list[str], code: int, tmp_path: Path
) -> None:
    closed = with_streams(command, "<&- >&- 2>&-", tmp_path)
    assert (closed.returncode, closed.stdout, closed.stderr) == (code, "", "")
    deaf = with_streams(command, "2>/dev/full", tmp_path)
    assert deaf.returncode == code and (code == 0) == bool(deaf.stdout)
    full = with_streams(command, ">/dev/full", tmp_path)
    assert full.returncode == (code or 12) and f"error[{code or 12}/" in full.stderr
    assert "Traceback" not in full.stderr and not list(tmp_path.glob("quiver-bug-*"))


def test_work_is_done_though_nothing_can_be_printed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "1+1?"}\n')
    for number, streams in enumerate(("<&- >&- 2>&-", "2>/dev/full")):
        done = with_streams([*IMPORT, "--name", f"rows{number}"], streams, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.rglob("_manifest.json"))) == 2


def test_a_reader_that_leaves_early_is_no_fault(tmp_path: Path) -> None:
    code = "from schemas.process import program; program.run(lambda: print('x' * 10_000_000) or 0)"
    done = with_streams([sys.executable, "-c", code], "| head -c 1", tmp_path)
    assert (done.stdout, done.stderr) == ("x", "") and not list(tmp_path.glob("quiver-bug-*"))
