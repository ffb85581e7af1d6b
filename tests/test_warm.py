"""A command in a fork of a process that has imported it is the command in an interpreter of its own."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.pipelines.commands import LUIGI, ROOT, environment
from tests.tail import late
from tests.warm import command

QUIVER = str(LUIGI.with_name("quiver"))
IMPORT = [str(LUIGI), "--module", "pipelines", "Import", "--files", "rows.jsonl", "--format", "rewarded"]
COMMANDS = {
    "no command": [str(LUIGI), "--module", "pipelines"],
    "unknown task": [str(LUIGI), "--module", "pipelines", "Filtre"],
    "no such file": [*IMPORT[:5], "row.jsonl", *IMPORT[6:]],
    "unknown command": [QUIVER, "lss"],
    "a list": [QUIVER, "formats", "rewarded"],
}


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of the same rows, at paths of the same length."""
    both = tmp_path / "one", tmp_path / "two"
    for place in both:
        place.mkdir()
        (place / "rows.jsonl").write_text(json.dumps({"prompt": "q", "response": "a", "reward": 1}) + "\n")
    return both


def real(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def same(words: list[str], one: Path, two: Path) -> bool:
    """Whether code and both streams agree, but for the folder and the seconds."""
    ended = [real(words, one), command.run(words, two, environment())]
    texts = [
        [word for word in (done.stdout + done.stderr).replace(str(place), "").split() if not word[:1].isdecimal()]
        for done, place in zip(ended, (one, two), strict=True)
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) > 3
    return ended[0].returncode == ended[1].returncode


@pytest.mark.parametrize(
    "name", ["no command", *map(late, ["unknown task", "no such file"]), "unknown command", "a list"]
)
def test_a_fork_says_what_an_interpreter_says(places: tuple[Path, Path], name: str) -> None:
    assert same(COMMANDS[name], *places)


def test_it_makes_what_an_interpreter_makes(places: tuple[Path, Path]) -> None:
    assert same(IMPORT, *places)
    kinds = [sorted(str(path.relative_to(place)) for path in place.rglob("*.parquet")) for place in places]
    assert kinds[0] == kinds[1] != []
    assert same([QUIVER, "ls"], *places)


def test_a_signal_and_a_time_limit_end_it(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("import os, signal, sys\nprint(sys.argv, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n")
    done = command.run([str(script), "a b"], tmp_path, environment())
    assert (done.returncode, done.stdout) == (-9, f"{[str(script), 'a b']}\n")
    script.write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    with pytest.raises(subprocess.TimeoutExpired, match=r"0\.5 seconds"):
        command.run([str(script)], tmp_path, environment(), timeout=0.5)


def test_what_stands_in_for_a_program_is_that_program(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"seed": 1, "sede": 2}')
    program, given = ["trainers.run", "run.json"], environment(PYTHONSAFEPATH="1")
    ended = [
        subprocess.run([*start, *program], cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
        for start in ([sys.executable, "-P", "-m"], command.python())
    ]
    assert (ended[0].returncode, ended[0].stdout, ended[0].stderr) == (2, ended[1].stdout, ended[1].stderr)
    assert ended[1].returncode == 2 and "sede" in ended[1].stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_goes_with_what_stands_in_for_it(tmp_path: Path, number: int) -> None:
    (tmp_path / "waits.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    given = environment(PYTHONPATH=str(tmp_path))
    with subprocess.Popen([*command.python(), "waits"], env=given, stdout=subprocess.PIPE, text=True) as stand_in:
        assert stand_in.stdout is not None
        assert stand_in.stdout.readline() != ""
        stand_in.send_signal(number)
        assert stand_in.wait() == -number
        assert stand_in.stdout.read() == ""  # the end of the program too


KILLED = """
import os, sys, time
from pathlib import Path
from tests.warm import command

script, pids = Path(sys.argv[1]), Path(sys.argv[2])
script.write_text(f"import os, time\\nopen({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\\\n')\\ntime.sleep(60)\\n")
server = command._server("commands")
fork = os.fork()
if not fork:
    time.sleep(60)
pids.write_text(f"{fork}\\n{server._process.pid}\\n")
server.run([str(script)], script.parent, {**os.environ}, 60)
"""


def test_the_server_and_what_runs_in_it_go_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """A fork of that process holds its end of the pipe open."""
    pids, program = tmp_path / "pids", [sys.executable, "-c", KILLED, str(tmp_path / "script"), str(tmp_path / "pids")]
    with subprocess.Popen(program, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT))) as killed:
        _until(lambda: pids.exists() and pids.read_text().count("\n") == 3)
        fork, *left = map(psutil.Process, map(int, pids.read_text().split()))
        killed.kill()
    try:
        _until(lambda: not any(map(_runs, left)))
        assert _runs(fork)
    finally:
        fork.kill()


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to that")


def test_what_counts_before_the_first_line_asks_for_an_interpreter(tmp_path: Path) -> None:
    given = environment()
    assert not command.fresh(IMPORT, tmp_path, given)
    assert command.fresh(IMPORT, tmp_path, given | {"LUIGI_CONFIG_PATH": "x"})
    assert command.fresh(IMPORT, tmp_path, given | {"PYTHONWARNINGS": "error"})
    assert command.fresh([*IMPORT, "--scheduler-host", "here"], tmp_path, given)
    refusing = ROOT / "tests" / "faults" / "refusing"
    assert command.fresh(IMPORT, tmp_path, given | {"PYTHONPATH": os.pathsep.join([str(refusing), str(ROOT)])})
    (tmp_path / "luigi.cfg").touch()
    assert command.fresh(IMPORT, tmp_path, given)


PROCESS = ("getpid", "getcwd", "environ", "argv", "orig_argv", "getppid", "getuid")
KEPT = {
    "schemas/process/interpreter.py: getpid",
    "datakit/run/runner.py: getpid",
    "pipelines/cli/invocation.py: argv",
}
"""What `remember_anew` sees to."""


def test_what_modules_keep_of_their_process_is_known() -> None:
    keeping = set()
    for package in ("schemas", "datakit", "pipelines", "quiver"):
        for path in (ROOT / package).rglob("*.py"):
            for line in ast.parse(path.read_text()).body:
                if isinstance(line, (ast.Assign, ast.AnnAssign, ast.Expr)):
                    names = {node.attr for node in ast.walk(line) if isinstance(node, ast.Attribute)}
                    keeping |= {f"{path.relative_to(ROOT)}: {name}" for name in names & {*PROCESS}}
    assert keeping == KEPT
