"""Folders in the temp folder: gone with the process that made them, killed or not."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from schemas.process import interpreter
from tests.pipelines.commands import environment

MAKES = """
import os, signal, sys
from schemas.store.scratch import Scratch
scratch = Scratch("quiver-test-")
open(os.path.join(scratch.path, "rows"), "w").close()
print(scratch.path, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
scratch.close()
"""


def maker(folder: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKES, how]
    given = environment(TMPDIR=str(folder))
    return subprocess.Popen(command, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def made(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_what_a_killed_process_leaves_goes_with_the_next_one_and_nothing_else(tmp_path: Path) -> None:
    victim, others = tmp_path / "victim", tmp_path / "quiver-other-1"
    for folder in (victim, others):
        folder.mkdir()
        (folder / "rows").touch()
    (tmp_path / "quiver-test-link").symlink_to(victim)
    (tmp_path / "quiver-test-file").touch()
    killed = maker(tmp_path, "killed")
    dead = made(killed)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL and (dead / "rows").exists()
    first = maker(tmp_path, "lives")
    alive = made(first)
    assert not dead.exists() and stat.S_IMODE(alive.stat().st_mode) == 0o700
    second = maker(tmp_path, "lives")
    another = made(second)
    assert alive.is_dir() and another.is_dir() and another != alive, "what is at work stays"
    for process in (first, second):
        process.communicate(timeout=60)
    left = {"victim", "quiver-other-1", "quiver-test-link", "quiver-test-file"}
    assert set(os.listdir(tmp_path)) == left and (victim / "rows").exists()


def test_a_forked_copy_leaves_the_folder_alone(tmp_path: Path) -> None:
    code = (
        "import os; from schemas.store.scratch import Scratch; scratch = Scratch('quiver-test-')\n"
        "child = os.fork()\n"
        "scratch.close() if child == 0 else os.waitpid(child, 0)\n"
        "child or os._exit(0)\n"
        "print(os.path.isdir(scratch.path)); scratch.close(); print(os.path.isdir(scratch.path))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(TMPDIR=str(tmp_path)), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]


def test_sql_leaves_nothing_behind_when_it_is_killed(tmp_path: Path) -> None:
    dies = (
        "import os, signal; from datakit.duck.session import Session\n"
        "with Session() as session:\n"
        "    assert session.rows('SELECT 1') == [(1,)]; os.kill(os.getpid(), signal.SIGKILL)"
    )
    given = environment(TMPDIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", dies], env=given, check=False)
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.glob("quiver-sql-*"))) == 1
    lives = "from datakit.duck.session import Session\nwith Session() as session: session.rows('SELECT 1')"
    subprocess.run([sys.executable, "-c", lives], env=given, check=True)
    assert os.listdir(tmp_path) == []


SOCKETS = """
import multiprocessing, multiprocessing.util, os, signal, sys
from schemas.process.interpreter import safe_children
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    with safe_children():
        child = multiprocessing.Process(target=os.getpid)
        child.start()
        child.join()
    assert child.exitcode == 0
    print(multiprocessing.util.get_temp_dir(), flush=True)
    if sys.argv[1:] == ["killed"]:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def sockets(temp: Path, *arguments: str) -> tuple[int, Path]:
    """The exit code of a program that starts a process, and where its sockets were."""
    program = temp.parent / "sockets.py"
    program.write_text(SOCKETS)
    run = subprocess.run(
        [sys.executable, str(program), *arguments],
        env=environment(TMPDIR=str(temp), PYTHONPATH=os.getcwd()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout, run.stderr
    return run.returncode, Path(run.stdout.strip())


def test_sockets_of_the_killed() -> None:
    """Those of `multiprocessing` go with the next run; its own folder, `pymp-*`, would stay."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        temp = Path(short, "temp")
        temp.mkdir()
        for arguments, code in ((["killed"], -signal.SIGKILL), ([], 0)):
            ended, folder = sockets(temp, *arguments)
            assert (ended, folder.parent) == (code, temp) and folder.name.startswith("quiv-")
        assert list(temp.iterdir()) == []


@pytest.mark.parametrize("more", [0, 1])
def test_below_a_long_temp_folder_no_socket_can_be(more: int) -> None:
    """Of the length that still works, and of one letter more."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        temp = Path(short, "t" * (interpreter._LONGEST - len(short) - 1 + more))
        temp.mkdir()
        ended, folder = sockets(temp)
        assert ended == 0 and folder.parent == (Path("/tmp") if more else temp)
        assert not folder.exists()
