"""Data stages on a real Ray: the bytes of the local executor, whatever is killed; nothing listens beyond this machine.

Each case is a program of its own (tests/executors/program.py), with Ray from `build/ray`, where `make test-slow` puts
it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
RAY = ROOT / "build" / "ray"
LUIGI = Path(sys.executable).with_name("luigi")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (RAY / "ray").is_dir(), reason="Ray is not in build/ray: make test-slow puts it there"),
]


def environment(*more: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *more, RAY)))}


def outcome_of(case: str, folder: Path) -> Any:
    command = [sys.executable, "-m", "tests.executors.program", case, str(folder)]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kind_of_stage_gives_the_bytes_of_the_local_executor(tmp_path: Path) -> None:
    outcomes = outcome_of("same_bytes", tmp_path)
    names = {"generate", "label", "filter", "dedup", "shuffle", "mix", "template", "tokenize"}
    assert outcomes["stages"].keys() == names
    assert [name for name, (local, ray) in outcomes["stages"].items() if local != ray] == []
    assert len(outcomes["stages"]["label"][0]) == 1 + 64
    assert outcomes["listening"] == ["127.0.0.1"]
    assert outcomes["left"] == []


def test_a_killed_worker_loses_nothing_and_no_kept_answer_is_paid_for_twice(tmp_path: Path) -> None:
    outcomes = outcome_of("worker_killed", tmp_path)
    assert outcomes["killed"] and outcomes["digests"][0] == outcomes["digests"][1]
    assert outcomes["asked"] == {str(number): 1 for number in range(96)}
    assert outcomes["rows"] == 96


def test_a_node_that_goes_while_it_works_loses_nothing(tmp_path: Path) -> None:
    outcomes = outcome_of("node_lost", tmp_path)
    assert outcomes["lost"] >= 1
    assert outcomes["digests"][0] == outcomes["digests"][1] and outcomes["rows"] == 256


def test_what_goes_wrong_is_told_as_by_the_local_executor(tmp_path: Path) -> None:
    outcomes = outcome_of("failures", tmp_path)
    dies, fails, hangs = outcomes["errors"]
    assert dies[:3] == [14, "worker-died", "4 workers were lost while they did piece 1 of test.dies"]
    assert fails[:2] == [10, "op-failed"] and "prompt_id=prompt_id 7" in fails[2]
    assert hangs[:2] == [14, "worker-stuck"] and "in label" in hangs[3]
    assert outcomes["left"] == ["given"]


def test_a_program_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.executors.program", "works_until_killed", str(tmp_path)]
    with open(tmp_path / "log", "w") as log:
        program = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
    pids = tmp_path / "pids"
    _wait_for(lambda: pids.exists() and len(pids.read_text().split()) > 3, 300)
    time.sleep(5)
    known = {*map(int, pids.read_text().split()), *(one.pid for one in psutil.Process(program.pid).children(True))}
    program.send_signal(signal.SIGKILL)
    program.wait()
    _wait_for(lambda: not [pid for pid in known if _alive(pid)], 120)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_command_runs_its_stages_on_a_cluster_of_its_own(tmp_path: Path, workers: str) -> None:
    made = {}
    for executor in ("local", "ray"):
        folder = tmp_path / executor
        folder.mkdir()
        (folder / "luigi.cfg").write_text(f"[quiver]\nexecutor = {executor}\nprocesses = 2\n")
        done = subprocess.run(
            [str(LUIGI), "--module", "toy", "Toy", "--workers", workers],
            cwd=folder, env=environment(ROOT / "tests" / "pipelines"), capture_output=True, text=True, timeout=800,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-5000:]
        manifests = [json.loads(path.read_text()) for path in sorted(folder.rglob("_manifest.json"))]
        made[executor] = [[one["content"]["key"], one["content"]["files"]] for one in manifests]
        assert {one["runtime_info"]["executor"] for one in manifests} == {executor}
    assert made["local"] == made["ray"] and len(made["ray"]) == 4


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_for(true: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)
