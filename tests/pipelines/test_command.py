"""The real `luigi` command: what wins, what is done again, how it stops; faults of users are in `test_bad_input`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import PATH, ROOT, alive_in, digests, luigi, started, while_running

from tests.tail import late


@pytest.mark.slow
def test_the_users_configuration_wins_over_ours_and_the_command_line_over_both(tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[quiver]\nroot = elsewhere\nprocesses = 1\n")
    (tmp_path / "more.cfg").write_text("[quiver]\nroot = third\n")
    assert luigi(tmp_path, "Toy", "--rows", "10").returncode == 0
    assert (tmp_path / "elsewhere" / "toy").is_dir()
    assert luigi(tmp_path, "Toy", "--rows", "10", LUIGI_CONFIG_PATH=str(tmp_path / "more.cfg")).returncode == 0
    assert (tmp_path / "third" / "toy").is_dir()
    assert luigi(tmp_path, "Toy", "--rows", "10", "--quiver-root", "fourth").returncode == 0
    assert (tmp_path / "fourth" / "toy").is_dir()


def test_a_second_run_does_nothing_and_a_changed_setting_only_what_follows(tmp_path: Path) -> None:
    calls = str(tmp_path / "calls")
    assert luigi(tmp_path, "Toy", TOY_CALLS=calls).returncode == 0
    first, drawn = digests(tmp_path), Path(calls).read_text()
    began = time.monotonic()
    again = luigi(tmp_path, "Toy", TOY_CALLS=calls)
    assert again.returncode == 0
    assert time.monotonic() - began < 30
    assert "nothing to do" in again.stderr
    assert digests(tmp_path) == first
    assert Path(calls).read_text() == drawn
    changed = luigi(tmp_path, "Toy", "--minimum", "0.7", TOY_CALLS=calls)
    assert changed.returncode == 0
    assert "2 stages to do, 1 reused" in changed.stderr
    assert "minimum 0.5 -> 0.7" in changed.stderr
    assert "another kept" in changed.stderr
    assert digests(tmp_path).items() >= first.items()
    assert Path(calls).read_text().removeprefix(drawn).count("reward") == 0


def test_workers_and_processes_change_no_byte(tmp_path: Path) -> None:
    ways = [("--workers", "1", "--quiver-processes", "1"), ("--workers", "2", "--quiver-processes", "2")]
    made = []
    for number, way in enumerate(ways):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = luigi(folder, "Pair", *way)
        assert done.returncode == 0, done.stderr
        made.append(digests(folder))
    assert made[0] == made[1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_flags_of_quiver_hold_in_every_process(tmp_path: Path, workers: str) -> None:
    flags = ("--quiver-processes", "3", "--quiver-hang-seconds", "0.5", "--launch-lines", '["--comment=5%"]')
    done = luigi(tmp_path, "Toy", "--rows", "200", "--seconds", "60", "--workers", workers, *flags)
    assert done.returncode == 14 and "error[14/worker-stuck]" in done.stderr, done.stderr


@pytest.mark.parametrize("workers", ["0", "-1", "two"])
def test_workers_that_would_do_nothing_are_refused(tmp_path: Path, workers: str) -> None:
    """Luigi alone ends with success and makes nothing."""
    done = luigi(tmp_path, "Toy", "--workers", workers)
    assert done.returncode == 2, done.stderr
    assert "workers: " in done.stderr and "/bug" not in done.stderr
    assert not list(tmp_path.glob("quiver-data/toy/*"))


def test_a_scheduler_that_does_not_answer_is_reported_at_once(tmp_path: Path) -> None:
    done = luigi(tmp_path, "Toy", "--scheduler-port", "1")
    assert done.returncode == 13, done.stderr
    assert "error[13/no-scheduler]: the Luigi scheduler does not answer" in done.stderr


def test_an_error_passes_through_worker_processes(tmp_path: Path) -> None:
    done = luigi(tmp_path, "Toy", "--fail", "--workers", "2")
    assert done.returncode == 10, done.stderr
    assert done.stderr.count("error[10/op-failed]") == 1


@pytest.mark.parametrize("workers", [late("1"), "2"])
def test_sigterm_ends_with_75_and_starts_nothing_more(tmp_path: Path, workers: str) -> None:
    run = started(tmp_path, "Toy", "--seconds", "0.8", "--workers", workers)
    _wait_for(lambda: while_running(tmp_path, "quiver-data/toy/drawn-*/_attempt-*"), run)
    run.send_signal(signal.SIGTERM)
    _, stderr = run.communicate(timeout=30)
    assert run.returncode == 75, stderr
    assert "error[75/stopped]: stopped on request" in stderr
    assert not _alive(run.pid)
    assert not list(tmp_path.glob("quiver-data/toy/kept-*"))
    assert luigi(tmp_path, "Toy", "--seconds", "0.8").returncode == 0


def test_children_die_with_a_killed_parent_and_publish_nothing(tmp_path: Path) -> None:
    run = started(tmp_path, "Toy", "--seconds", "2", "--workers", "2")
    _wait_for(lambda: while_running(tmp_path, "quiver-data/toy/drawn-*/_attempt-*"), run)
    run.kill()
    run.communicate()
    assert not _alive(run.pid)
    assert alive_in(tmp_path) == [], "nobody is left who could publish"
    assert not list(tmp_path.glob("quiver-data/toy/drawn-*/_manifest.json"))


def test_an_import_is_quick_and_light() -> None:
    heavy = ("torch", "megatron", "polars", "duckdb", "transformers", "tokenizers")
    code = (
        f"import time; t = time.process_time(); import pipelines, sys; print(time.process_time() - t); "
        f"print(*[m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": PATH}, capture_output=True, text=True, check=True
    )
    seconds, loaded = done.stdout.split("\n")[:2]
    assert not loaded.strip()
    assert float(seconds) < 1.5
    assert ROOT.joinpath("pipelines").is_dir()


def _wait_for(condition, run: subprocess.Popen[str]) -> None:  # type: ignore[no-untyped-def]
    for _ in range(600):
        if condition():
            time.sleep(0.3)
            return
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    raise AssertionError("the run never got there")


def _alive(group: int) -> list[str]:
    """Command lines of live processes of a process group, our own watchers' grace period of two seconds given."""
    for _ in range(40):
        left = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] not in "ZX":
                    left.append((stat.parent / "cmdline").read_text().replace("\0", " "))
            except (OSError, IndexError):
                continue
        if not left:
            return []
        time.sleep(0.1)
    return left
