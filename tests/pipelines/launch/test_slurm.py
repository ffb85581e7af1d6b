"""The Slurm script against golden files and through bash; a run through a cluster of one host that really runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError, QuiverError, ServiceError
from schemas.store.commit import read_manifest
from tests.pipelines.launch.processes import alive, fake_slurm
from tests.trainers import toys
from trainers.launch import start
from trainers.launch.jobs import Job
from trainers.launch.rank import world_from_slurm
from trainers.launch.settings import Launch, Slurm
from trainers.launch.slurm import Script
from trainers.parallel import Parallel

FOLDER = Path(__file__).parent
GOLDEN = FOLDER / "golden"
SCRIPTS = {
    "one_node": (4, Launch(launcher="slurm", slurm=Slurm(requeue=False, signal_seconds=0))),
    "cluster": (
        16,
        Launch(
            launcher="slurm",
            environment=("MY_TOKEN",),
            slurm=Slurm(
                partition="gpu",
                account='o"hara & co',
                qos="high",
                nodes=2,
                gpus_per_node=8,
                cpus_per_rank=12,
                time="1-04:00:00",
                lines=("--constraint=a100|h100", "--exclusive"),
                image="/images/quiver v1.sqsh",
                mounts=("/data:/data", "/my runs:/runs"),
            ),
        ),
    ),
}
HOSTILE = Path('/data/my runs/it\'s $(touch pwned) `id`; 100% "x"')


def script(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path = HOSTILE) -> Script:
    ranks, launch = SCRIPTS[name]
    for variable in list(os.environ):
        monkeypatch.delenv(variable)
    for variable, value in {"PATH": "/bin:/usr/bin", "HOME": "/home/me", "MY_TOKEN": "secret", "NO": "x"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "executable", "/opt/quiver env/bin/python")
    monkeypatch.setattr(sys, "path", ["/opt/quiver", ""])
    return Script(config=folder / "config.json", folder=folder, ranks=ranks, launch=launch, name="rest/policy")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_the_golden_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`QUIVER_GOLDEN=write` writes the files anew."""
    write = os.environ.get("QUIVER_GOLDEN") == "write"
    text, path = script(name, monkeypatch).text(), GOLDEN / f"{name}.sh"
    if write:
        path.write_text(text)
    assert text == path.read_text()
    assert "secret" not in text


def test_bash_and_slurm_read_back_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the script is a function that prints its arguments; nothing else happens."""
    given = script("cluster", monkeypatch)
    file, bin_ = tmp_path / "script.sh", tmp_path / "bin"
    file.write_text(given.text().replace("'/opt/quiver env/bin/python'", "python"))
    bin_.mkdir()
    for name in ("python", "scontrol"):
        (bin_ / name).write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
        (bin_ / name).chmod(0o755)
    environment = {"PATH": f"{bin_}:/usr/bin:/bin", "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "n[1-2]"}
    done = subprocess.run(
        ["bash", str(file)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    assert words[:6] == ["-P", "-m", "trainers.launch", str(HOSTILE / "config.json"), "--ranks", "16"]
    assert words[6:10] == ["--name", "rest/policy", "--settings", str(HOSTILE / "launch.json")]
    assert words[-4:] == ["-P", "-m", "trainers.run", str(HOSTILE / "config.json")]
    logs = str(HOSTILE / "logs").replace("%", "%%")
    assert f"--output={logs}/rank-%5t.log" in words and "--container-mounts=/data:/data,/my runs:/runs" in words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "script.sh"]
    sys.path.insert(0, str(FOLDER / "slurm"))
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    import slurm

    asked = slurm.options_of(file)
    assert asked["account"] == 'o"hara & co' and asked["output"] == f"{logs}/slurm.log"
    assert asked["export"] == "HOME,MY_TOKEN,PATH" and asked["constraint"] == "a100|h100"


@pytest.mark.parametrize("folder", ["/a\nb", "/a\\b", "/a\x1bb"])
def test_paths_that_cannot_be_written_down_are_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="bad-path"):
        script("one_node", monkeypatch, Path(folder)).text()
    with pytest.raises(ConfigError, match="control character"):
        Launch(slurm=Slurm(partition="a\n#SBATCH --x"))
    with pytest.raises(ConfigError, match="does not start with --"):
        Launch(slurm=Slurm(lines=("x",)))


def test_the_world_of_srun_is_that_of_torchrun() -> None:
    variables = {"SLURM_JOB_ID": "31234567", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}
    batch = dict(variables)
    world_from_slurm(batch)
    assert batch == variables, "a script of sbatch is no rank"
    step = {**variables, "SLURM_STEP_ID": "0", "MASTER_ADDR": "n1"}
    world_from_slurm(step)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [step[name] for name in names] == ["3", "1", "4", "n1", "24567"]
    torchrun = {**variables, "SLURM_STEP_ID": "0", "RANK": "7"}
    world_from_slurm(torchrun)
    assert torchrun["RANK"] == "7" and "WORLD_SIZE" not in torchrun


REAL = os.environ.get("QUIVER_SLURM") == "real"
"""Whether the run goes through the cluster whose commands are on the PATH (two nodes that share a file system)."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake cluster on the PATH, unless there is a real one."""
    monkeypatch.setenv("MY_TOKEN", "secret")
    fake_slurm(tmp_path, monkeypatch, on_path=not REAL)


def job(folder: Path, messages: list[str], program: str = "trainers.run") -> Job:
    slurm = Slurm(poll_seconds=0.2, nodes=2 if REAL else 1)
    launch = Launch(launcher="slurm", threads=1, environment=("FAKE_SLURM", "MY_TOKEN"), slurm=slurm, save_seconds=90)
    config = Path(toys.written(folder / "run.json", toys.config(folder, save_every=1)))
    start.check(Parallel(), 2, launch, "sft")
    given: dict[str, Any] = {"what": "sft", "program": program, "tell": messages.append}
    made = start.prepare(config, folder / "policy.run", 2, launch, **given)
    assert isinstance(made, Job)
    return made


@pytest.mark.slow
def test_a_run_through_slurm(tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank dies; the time limit comes and the job queues again; whoever waits is killed and finds the job again."""
    folder, messages = tmp_path / "my runs 100% $(id)", list[str]()
    monkeypatch.setenv("QUIVER_FAULT", "kill@2")
    with pytest.raises(QuiverError) as caught:
        job(folder, messages, "tests.pipelines.launch.faulty").run()
    error = caught.value
    assert error.render().startswith("error[14/rank-died]: sft: rank 1 of 2 died without a word at step 2\n"), error
    assert error.found in ("Killed, says srun", "Exited with exit code -9, says srun")
    assert error.where.endswith("policy.run/logs/rank-00001.log") and "the save of step 1" in error.kept
    work = folder / "policy.run"
    assert messages[-1].startswith("rank 1, last lines of") and "| the fault kill strikes rank 1" in messages[-1]
    assert "secret" not in (work / "slurm.sh").read_text() + (work / "launch.json").read_text()

    monkeypatch.setenv("QUIVER_FAULT", "wait@4")
    first = job(folder, messages, "tests.pipelines.launch.faulty")
    waiting = threading.Thread(target=first.run, daemon=True)
    waiting.start()
    limit_comes(work, first)
    second = job(folder, messages)
    second.run()
    waiting.join(60)
    assert second.number == first.number, "the job was waited for, not submitted twice"
    manifest = read_manifest(str(folder / "policy"))
    assert manifest is not None and [line["step"] for line in toys.curve(work)] == list(range(1, 9))
    assert "stopped on request after step 4" in (work / "logs" / "slurm.log").read_text(), "it queued again"
    assert not alive(folder)


def limit_comes(work: Path, running: Job) -> None:
    """Wait until rank 1 waits in step 4, then do what Slurm does before a time limit: SIGTERM to the tasks."""
    log, until = work / "logs" / "rank-00001.log", time.monotonic() + 200
    while "the fault wait strikes" not in log.read_text():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    subprocess.run(["scancel", "--signal=TERM", running.number], check=True)


def test_a_job_that_slurm_does_not_take_or_loses(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    lost = job(tmp_path, messages)
    lost.number = "99"
    monkeypatch.setattr("trainers.launch.jobs._OUTCOME_SECONDS", 0.0)
    with pytest.raises(QuiverError, match="job 99 ended without a word"):
        lost._raise(lost._state())
    with pytest.raises(ConfigError, match="3 ranks do not fill the nodes"):
        start.check(Parallel(), 3, Launch(launcher="slurm", slurm=Slurm(nodes=2)), "sft")
    (tmp_path / "bin" / "sbatch").write_text('#!/bin/bash\necho "sbatch: error: invalid partition" >&2\nexit 1\n')
    with pytest.raises(ServiceError, match="invalid partition"):
        job(tmp_path, messages).run()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="sbatch, squeue, scancel cannot be found"):
        job(tmp_path, messages)
