"""kill -9 of the whole process group at random moments, each followed by a rerun: nothing lost, doubled or left behind.

The normal suite does a few points on the toy graph; `QUIVER_KILLS=40` does forty, `QUIVER_KILL_GOAL=RestIteration` on
a small real iteration, training and all, `QUIVER_KILL_GOAL="RestIteration --seed 5 ..."` on any goal of `pipelines`.
The seed is printed and can be given as QUIVER_KILL_SEED.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import REST, alive_in, damaged, digests, environment, leftovers, luigi, started

from tests.tail import late

KILLS = int(os.environ.get("QUIVER_KILLS", "4"))
SEED = int(os.environ.get("QUIVER_KILL_SEED", str(random.SystemRandom().randrange(1 << 32))))
ASKED = os.environ.get("QUIVER_KILL_GOAL", "Toy --seconds 0.3")
GOAL = REST if ASKED == "RestIteration" else tuple(shlex.split(ASKED))
MODULE = "pipelines" if "QUIVER_KILL_GOAL" in os.environ else "toy"


@pytest.mark.timeout(600 + 180 * KILLS)
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    print(f"QUIVER_KILL_SEED={SEED} QUIVER_KILLS={KILLS}")
    rng = random.Random(SEED)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    began = time.monotonic()
    done = luigi(undisturbed, *GOAL, module=MODULE, timeout=3600)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    landed: list[int] = []
    while len(landed) < KILLS:
        run = started(disturbed, *GOAL, module=MODULE)
        try:
            _, outputs = run.communicate(timeout=rng.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate(timeout=30)
            landed.append(len(digests(disturbed)))
            print(f"kill {len(landed)}: {landed[-1]} stages were complete", flush=True)
            continue
        assert run.returncode == 0, outputs
        if len(digests(disturbed)) == len(digests(undisturbed)):
            _start_over(disturbed)
    done = luigi(disturbed, *GOAL, module=MODULE, timeout=3600)
    assert done.returncode == 0, done.stderr
    assert digests(disturbed) == digests(undisturbed)
    assert damaged(disturbed) == []
    assert leftovers(disturbed) == []
    assert alive_in(disturbed) == []


def _start_over(folder: Path) -> None:
    """Remove the manifests, as if all were still to do; the dead attempts' traces stay."""
    for path in (folder / "quiver-data").rglob("_manifest.json"):
        path.unlink()


def test_paid_work_is_done_once(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    run = started(tmp_path, "Toy", "--seconds", "0.5", "--quiver-processes", "1", TOY_CALLS=str(calls))
    for _ in range(600):
        if calls.exists() and len(calls.read_text().splitlines()) >= 2:
            break
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    time.sleep(0.2)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=30)
    paid = calls.read_text().splitlines()
    done = luigi(tmp_path, "Toy", "--seconds", "0.5", "--quiver-processes", "1", TOY_CALLS=str(calls))
    assert done.returncode == 0, done.stderr
    repeated = [call for call in paid if calls.read_text().splitlines().count(call) > 1]
    assert len(repeated) <= 1, f"paid twice: {repeated}"


BETWEEN = """
import os, signal, sys
from schemas.store.commit import begin_attempt
begin_attempt(sys.argv[1])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("stage", ["kept", "again"])
def test_what_a_kill_between_publishing_and_cleaning_up_leaves_is_swept(tmp_path: Path, stage: str) -> None:
    assert luigi(tmp_path, "Toy").returncode == 0
    before = digests(tmp_path)
    folders = {path.parent.name.partition("-")[0]: path.parent for path in tmp_path.rglob("_manifest.json")}
    done = subprocess.run([sys.executable, "-c", BETWEEN, str(folders[stage])], env=environment(), check=False)
    assert done.returncode == -signal.SIGKILL
    (folders[stage] / "_progress-0123abcd").mkdir()
    (folders[stage] / "_progress-0123abcd" / "shard-00000-chunk-000000").touch()
    if stage != "again":
        (folders["again"] / "_manifest.json").unlink()
    assert len([path for path in leftovers(tmp_path) if Path(path).parent == folders[stage]]) == 2
    done = luigi(tmp_path, "Toy")
    assert done.returncode == 0 and ("nothing to do" in done.stderr) is (stage == "again")
    assert leftovers(tmp_path) == []
    assert digests(tmp_path) == before


@pytest.mark.parametrize("goal", ["Toy", late("Pair")])
def test_two_runs_at_once_agree(tmp_path: Path, goal: str) -> None:
    runs = [started(tmp_path, goal) for _ in range(2)]
    outputs = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(text for pair in outputs for text in pair)
    assert not leftovers(tmp_path)
