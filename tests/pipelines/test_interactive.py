"""`pipelines.run` in a program of its own, as in a notebook's kernel: results by name, errors, a real SIGINT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from commands import alive_in, damaged, digests, environment, leftovers

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


def program(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """A program with this body of `main` in `folder`, run to its end."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    (folder / "program.py").write_text(BEGIN + lines + END)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
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
    assert lines[5].startswith("bad-parameter rows: ") and "many" in lines[5]
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
    )
    assert done.stdout.splitlines() == ["interrupted True", "True", "['MainThread']", "True"]
    assert len(digests(tmp_path)) == 4 and damaged(tmp_path) == [] and leftovers(tmp_path) == []
    assert alive_in(tmp_path) == []


def test_what_is_imported_for_it_is_light() -> None:
    code = "import sys, pipelines; pipelines.run; print([m for m in ('torch', 'polars', 'duckdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
