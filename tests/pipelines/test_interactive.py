"""`pipelines.run` in a program of its own, as in a notebook's kernel: results by name, errors, a real SIGINT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from commands import alive_in, damaged, digests, environment, leftovers

from tests.warm import command as warm

BEGIN = """
import os, signal, threading, time
import pipelines, toy
from schemas.errors import ConfigError, DataError, QuiverError

def main():
    given = {"rows": 300, "quiver_root": "quiver-data", "quiver_processes": 1}
"""
END = """
if __name__ == "__main__":
    main()
"""


def program(folder: Path, body: str, *, forked: bool = True) -> subprocess.CompletedProcess[str]:
    """A program with this body of `main` in `folder`, run to its end: in a fork, or in an interpreter of its own."""
    lines, place = "\n".join(f"    {line}" for line in body.strip().splitlines()), folder / "program.py"
    place.write_text(BEGIN + lines + END)
    if forked:
        done = warm.run([str(place)], folder, environment(), 240)
    else:
        command, more = [sys.executable, place.name], environment()
        done = subprocess.run(command, cwd=folder, env=more, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_results_by_name_and_errors_as_they_are(tmp_path: Path) -> None:
    done = program(
        tmp_path,
        """
result = pipelines.run("Toy", **given)
rows = result.datasets["again"].read()
print(list(result.datasets), rows.num_rows, min(rows["reward"].to_pylist()) > 0.5)
print(repr(result).split()[0], repr(result).split()[1] == result.datasets["again"].url)
higher = pipelines.run("Toy", minimum=0.9, **given)
print(min(higher.datasets["again"].read()["reward"].to_pylist()) > 0.9)
for name, more in (("Tou", {}), ("Toy", {"row": 3}), ("Toy", {"rows": "many"}), ("Toy", {"fail": True})):
    try:
        pipelines.run(name, **{**given, **more})
    except QuiverError as error:
        print(error.slug, error.what)
print(pipelines.run("Toy", **given).datasets["again"].read().equals(rows))
other = pipelines.run("Toy", **{**given, "quiver_root": "elsewhere"})
print(other.datasets["again"].url.startswith(os.path.abspath("elsewhere")))
""",
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("['again'] ") and lines[0].endswith(" True")
    assert lines[1:3] == ["again True", "True"]
    assert lines[3] == "unknown-task there is no task Tou (did you mean Toy?)"
    assert lines[4] == "unknown-parameter Toy has no parameter row (did you mean rows?)"
    assert lines[5].startswith("bad-parameter --rows: ") and "many" in lines[5]
    assert lines[6].startswith("op-failed ") and "the toy broke" in lines[6]
    assert lines[7:] == ["True", "True"]
    assert "Traceback" not in done.stderr and "sys.argv" not in done.stderr
    logs = list((tmp_path / "quiver-data/logs").glob("luigi-*.log"))
    assert len(logs) == 4, "a log for each run that was planned, and none of them goes on in another"


def test_a_real_interrupt_during_a_stage_leaves_the_process_usable(tmp_path: Path) -> None:
    done = program(
        tmp_path,
        """
import glob
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]

def interrupt():
    while not glob.glob("quiver-data/toy/drawn-*/_attempt-*"):
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)

interrupting = threading.Thread(target=interrupt, daemon=True)
interrupting.start()
try:
    pipelines.run("Toy", seconds=5.0, **given)
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted", os.path.isdir(glob.glob("quiver-data/toy/counted-*")[0]))
print(handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)])
interrupting.join()
end = time.monotonic() + 10
while threading.active_count() > 1 and time.monotonic() < end:
    time.sleep(0.02)
print([thread.name for thread in threading.enumerate()])
print(pipelines.run("Toy", **given).datasets["again"].num_rows > 100)
""",
        forked=False,
    )
    assert done.stdout.splitlines() == ["interrupted True", "True", "['MainThread']", "True"]
    assert len(digests(tmp_path)) == 4 and damaged(tmp_path) == [] and leftovers(tmp_path) == []
    assert alive_in(tmp_path) == []


def test_values_of_python_and_names_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q", "response": "a"}\n')
    (tmp_path / "more.jsonl").write_text('{"prompt": "r", "response": "b"}\n')
    done = program(
        tmp_path,
        """
import pathlib
import numpy as np
two = ["rows.jsonl", pathlib.Path("more.jsonl")]
for name, settings in (
    ("Import", {"files": two}),
    ("Import", {"files": "rows.jsonl", "params": {"source": "mine"}, "columns": None}),
    ("Filter", {"data": pathlib.Path("rows.jsonl"), "op": "window", "params": {"limit": np.int64(1)}}),
    ("--help", {}),
    ("Import", {"--files": "rows.jsonl"}),
    ("Import", {"files": {"a": 1}}),
    ("Import", {"files": "rows.jsonl", "params": {"source": {1, 2}}}),
    ("Import", {"files": "rows.jsonl", "format": "--help"}),
    ("Import", {"files": "rows.jsonl", "name": "../x"}),
    ("Import", {"files": "rows.jsonl", "name": "/abs"}),
    ("Import", {"files": "rows.jsonl", "name": b"x\\xff".decode(errors="surrogateescape")}),
    ("Import", {"files": "rows.jsonl", "name": "a//b"}),
    ("Train", {"data": "rows.jsonl", "set": 3}),
    ("Train", {"data": "rows.jsonl", "set": {"epochs": 0}, "architecture": {"num_layers": 1}, "tokenizer": "x"}),
    ("RestIteration", {"set": None, "thresholds": ["a"]}),
):
    try:
        [made] = pipelines.run(name, quiver_root="quiver-data", **settings).datasets.values()
        print(name, made.num_rows)
    except QuiverError as error:
        print(name, error.code, error.slug, error.what)
print(sorted(os.listdir(".")))
""",
    )
    lines = done.stdout.splitlines()
    assert lines[:3] == ["Import 2", "Import 1", "Filter 1"], lines
    expected = [
        "--help 2 unknown-task there is no task --help",
        "Import 2 unknown-parameter ",
        "Import 2 bad-parameter files: ",
        "Import 2 bad-parameter params: ",
        "Import 2 ",
        "Import 2 bad-parameter ../x names no folder below the root of data",
        "Import 2 bad-parameter /abs names no folder below the root of data",
        "Import 2 bad-parameter x\\udcff names no folder below the root of data",
        "Import 2 bad-parameter a//b names no folder below the root of data",
        "Train 2 bad-parameter set: 3",
        "Train 2 ",
        "RestIteration 2 bad-setting thresholds holds 'a'",
    ]
    pairs = zip(lines[3:-1], expected, strict=True)
    assert [line for line, start in pairs if not line.startswith(start)] == []
    assert lines[-1] == str(sorted(["more.jsonl", "program.py", "quiver-data", "rows.jsonl"]))
    assert not list(tmp_path.parent.glob("x-*")) and "Traceback" not in done.stderr


def test_a_run_in_another_thread_works_and_two_at_once_are_refused(tmp_path: Path) -> None:
    done = program(
        tmp_path,
        """
import glob
made = []
thread = threading.Thread(target=lambda: made.append(pipelines.run("Toy", seconds=0.4, **given)))
thread.start()
while not glob.glob("quiver-data/toy/drawn-*/_attempt-*"):
    time.sleep(0.02)
try:
    pipelines.run("Toy", **given)
except QuiverError as error:
    print(error.slug, error.what)
thread.join()
print(made[0].datasets["again"].num_rows > 100)
print(pipelines.run("Toy", **given).datasets["again"].num_rows > 100)
""",
    )
    assert done.stdout.splitlines() == ["busy another thread of this process is at a run", "True", "True"]
    assert "Traceback" not in done.stderr


def test_a_script_without_a_guard_ends_with_the_line_to_write(tmp_path: Path) -> None:
    script = 'import pipelines, toy\npipelines.run("Toy", quiver_root="quiver-data", quiver_processes=2)\n'
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1, done.stderr
    assert "worker-not-started" in done.stderr and "put the work under `if __name__ == '__main__':`" in done.stderr
    assert done.stderr.count("error[") == 1 and done.stderr.count("stages to do") == 1


def test_what_is_imported_for_it_is_light() -> None:
    code = "import sys, pipelines; pipelines.run; print([m for m in ('torch', 'polars', 'duckdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
