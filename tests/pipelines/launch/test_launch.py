"""What is handed on, which error wins, and `python -m trainers.launch`: without torch, stopped with all saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime import settings
from schemas.errors import ConfigError, DataError, QuiverError, Stopped, WorkerError
from schemas.process import environment
from schemas.store.owner import Owner
from tests.pipelines.launch.processes import alive
from tests.trainers import toys
from tests.warm.command import python
from trainers.launch.launch_result import FinishedLaunch, LaunchResult, Observations, launch_result
from trainers.launch.rank_status import PEER_LOST, RankStatus, lost_peer, read_all
from trainers.launch.settings import Launch
from trainers.launch.watch import stuck_ranks


def test_the_environment_is_built_name_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"PATH": "/bin", "NCCL_DEBUG": "INFO", "AWS_SECRET_ACCESS_KEY": "s", "LC_ALL": "C", "MY_ONE": "1"}
    foreign = {"RANK": "3", "MASTER_PORT": "1", "SLURM_JOB_ID": "7", "GITHUB_TOKEN": "t", "QUIVER_RANKS": "/x"}
    built = environment.built({**given, **foreign}, 3, ("MY_*",))
    assert {name: built[name] for name in given} == given
    assert not built.keys() & foreign.keys() and built["OMP_NUM_THREADS"] == "3"
    assert str(Path(__file__).parents[3]) in built["PYTHONPATH"].split(os.pathsep)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = settings.available_cores()
    for ranks in (1, 2, cores, 4 * cores):
        assert environment.threads_of(ranks) * ranks <= max(cores, ranks) and environment.threads_of(ranks) >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    assert environment.threads_of(1) == cores and environment.threads_of(1, requested=7) == 7


def left(rank: int, error: QuiverError | None, at: float = 0.0, code: int | None = None) -> RankStatus:
    error_json = None if error is None else json.loads(error.as_json())
    ended = code if code is not None else 0 if error is None else error.code
    return RankStatus(rank=rank, owner=Owner.mine(), code=ended, error=error_json, left=at)


def running(rank: int) -> RankStatus:
    return RankStatus(rank=rank, owner=Owner.mine(), at="step 5")


LOST = WorkerError(PEER_LOST, "rank 0 lost touch with the other ranks")
BUG = QuiverError("bug", "KeyError: 7")
DATA = DataError("too-long", "row s1 is too long")
STOP = Stopped("stopped", "stopped on request after step 3 of 8")
CASES: dict[str, tuple[list[RankStatus], Observations, int, tuple[int, str] | None]] = {
    "all well": ([left(0, None), left(1, None)], Observations(), 0, None),
    "data before lost touch": ([left(0, LOST, 1.0), left(1, DATA, 2.0)], Observations(), 1, (10, "too-long")),
    "a fault with a name before a bug": ([left(0, DATA, 2.0), left(1, BUG, 1.0)], Observations(), 1, (10, "too-long")),
    "bug before lost touch": ([left(0, LOST, 1.0), left(1, BUG, 2.0)], Observations(), 1, (1, "bug")),
    "dead before lost touch": ([left(0, LOST), running(1)], Observations(dead=[1]), 1, (14, "rank-died")),
    "dead before a strange error": ([left(0, BUG), running(1)], Observations(dead=[1]), 1, (14, "rank-died")),
    "dead elsewhere": ([left(0, LOST), running(1)], Observations(), 137, (14, "rank-died")),
    "stuck before all that follows": ([left(0, BUG), running(1)], Observations(stuck=[1]), 1, (14, "rank-stuck")),
    "asked to stop": ([left(0, STOP), left(1, STOP)], Observations(asked=True), 1, (75, "stopped")),
    "stopped while it started": ([running(0), running(1)], Observations(asked=True), -15, (75, "stopped")),
    "only lost touch": ([left(0, LOST), left(1, LOST)], Observations(), 1, (14, PEER_LOST)),
    "Megatron's rerun machine": ([left(0, LOST), left(1, None, code=17)], Observations(), 1, (17, "ended")),
    "never came up": ([left(0, LOST)], Observations(), 1, (14, PEER_LOST)),
    "nobody came up": ([], Observations(), 1, (1, "bug")),
    "killed before it came up": ([], Observations(), -9, (14, "trainer-died")),
}


@pytest.mark.parametrize("name", CASES)
def test_the_error_of_the_run(name: str, tmp_path: Path) -> None:
    present, evidence, code, expected = CASES[name]
    case = FinishedLaunch(2, tmp_path, {}, code, "sft")
    result = launch_result({each.rank: each for each in present}, evidence, case)
    assert (result.error and (result.error.code, result.error.slug)) == expected
    if expected is not None and expected[0] == 14:
        assert result.error is not None and result.error.kept and result.error.next
    else:
        assert result == LaunchResult() or result.error is not None


def test_the_log_tells_a_rank_that_was_ended_from_one_that_was_killed(tmp_path: Path) -> None:
    present = {0: running(0), 1: left(1, DATA)}
    mine = present[0].owner.pid
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "launcher.log").write_text(f"x\nrank 0 (pid {mine}) ended with -15\n")
    assert launch_result(present, Observations(dead=[0]), FinishedLaunch(2, tmp_path, {}, 1, "sft")).error.code == 10  # type: ignore[union-attr]
    (tmp_path / "logs" / "launcher.log").write_text(f"rank 0 (pid {mine}) ended with -9\n")
    present = {0: running(0), 1: left(1, LOST)}
    error = launch_result(present, Observations(dead=[0]), FinishedLaunch(2, tmp_path, {}, 1, "sft")).error
    assert error is not None and "rank 0 of 2 was killed by SIGKILL at step 5" in error.what


def test_lost_touch_is_told_apart_from_other_faults() -> None:
    gloo = RuntimeError("[/x/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:8078")
    assert lost_peer(gloo, 1, "t.txt") is not None
    assert lost_peer(ConnectionResetError("Connection reset by peer"), 1, "t.txt") is None, "a storage's"
    assert lost_peer(RuntimeError("shapes differ"), 1, "t.txt") is None


def test_settings_are_checked() -> None:
    assert settings.launching() == Launch(), "the packaged defaults are those of the code"
    with pytest.raises(ConfigError, match="hang_seconds"):
        Launch(hang_seconds=0)
    with pytest.raises(ConfigError, match="not the name of a variable"):
        Launch(environment=("A=1",))


def test_the_launcher_is_light() -> None:
    code = "import sys, trainers.launch.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "megatron"} & set(done.stdout.split())


def command(folder: Path, *more: str, **changes: Any) -> list[str]:
    path = toys.written(folder / "run.json", toys.config(folder, **changes))
    return [sys.executable, "-m", "trainers.launch", path, "--ranks", "2", *more]


def test_faults_of_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, parallel={"pipeline": 4}), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "error[2/" in done.stderr and "divide" in done.stderr
    mixture = {**toys.MODEL, "experts": {"number": 4, "per_token": 2}}
    cut = command(tmp_path, model=mixture, parallel={"expert": 4})
    done = subprocess.run(cut, capture_output=True, text=True, check=False)
    assert done.stderr.startswith(
        "error[2/parallel-size]: training: 2 ranks do not fill tensor 1 x pipeline 1, expert 4"
    )
    (tmp_path / "launch.json").write_text('{"launchr": "slurm"}')
    more = ("--settings", str(tmp_path / "launch.json"))
    done = subprocess.run(command(tmp_path, *more), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "did you mean launcher?" in done.stderr


def test_stopped_it_saves_and_killed_it_leaves_nothing(tmp_path: Path) -> None:
    forked = [*python(), *command(tmp_path, max_steps=100_000, epochs=...)[2:]]
    run = subprocess.Popen(forked, stderr=subprocess.PIPE, text=True)
    reached(tmp_path, run, 3)
    run.terminate()
    _, error_json = run.communicate(timeout=200)
    assert run.returncode == 75 and "error[75/stopped]: stopped on request after step" in error_json, error_json
    assert not alive(tmp_path) and len(list((tmp_path / "policy.run" / "saves").glob("step-*"))) == 1
    outcome = json.loads((tmp_path / "policy.run" / "outcome.json").read_text())
    assert outcome["code"] == 75 and outcome["error"]["slug"] == "stopped"
    before = len(toys.curve(tmp_path / "policy.run"))
    run = subprocess.Popen(command(tmp_path, max_steps=100_000, epochs=...), stderr=subprocess.DEVNULL)
    reached(tmp_path, run, before + 3)
    assert len(read_all(next((tmp_path / "policy.run").glob("ranks-*")))) == 2
    run.kill()
    run.wait()
    assert not alive(tmp_path, patience=120), "the ranks save and leave when their launcher is killed"


def test_two_starts_of_one_run_do_not_meet(tmp_path: Path) -> None:
    """The second waits for the first, and finds what that made."""
    forked = [*python(), *command(tmp_path, max_steps=40, epochs=...)[2:]]
    runs = [subprocess.Popen(forked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert len(toys.curve(tmp_path / "policy.run")) == 40, "both wrote one log"
    assert not list((tmp_path / "policy.run").glob("ranks-*"))


def reached(folder: Path, run: subprocess.Popen[Any], step: int) -> None:
    log, until = folder / "policy.run" / "metrics.jsonl", time.monotonic() + 200
    while not log.exists() or log.read_bytes().count(b"\n") < step:
        assert time.monotonic() < until and run.poll() is None, run.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("seen", "stuck"),
    [
        ({0: (9, 3.0), 1: (8, 3.0)}, []),
        ({0: (9, 8.5), 1: (8, 8.6)}, [1]),
        ({0: (9, 8.1), 1: (8, 7.7)}, [1]),  # it came late to the step in which it hangs
        ({0: (9, 8.1), 1: (8, 1.0)}, [0]),
        ({0: (9, 8.1), 1: (9, 8.1)}, [0, 1]),
    ],
)
def test_the_rank_that_others_wait_for_is_the_stuck_one(seen: dict[int, tuple[int, float]], stuck: list[int]) -> None:
    assert stuck_ranks(seen, {0: 8.0, 1: 8.0}) == stuck
