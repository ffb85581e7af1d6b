"""A cluster of one host for tests: sbatch, srun, squeue, scancel and scontrol as one small program each.

The state of a job is a folder under FAKE_SLURM: `script`, `state`, `pid` (the script's process), and `tasks` (those of
srun). What the program does is what Slurm does as far as a launcher can see: options are read from the script's comment
lines by Slurm's own quoting rules, the script gets only the variables that `--export` names, output files follow the
patterns, a bad exit of one task kills the others, `scancel --signal` reaches the tasks and not the script, and a
requeued job starts again under its own number.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["FAKE_SLURM"])


def options_of(script: Path) -> dict[str, str]:
    """The options in a script's comment lines; shlex reads the same quotes and backslashes that Slurm does."""
    words = []
    for line in script.read_text().splitlines():
        if line.startswith("#SBATCH "):
            words += shlex.split(line.removeprefix("#SBATCH "), comments=True)
    assert all(word.startswith("--") for word in words), words
    return {name: value for name, _, value in (word[2:].partition("=") for word in words)}


def put(path: Path, text: str) -> None:
    """Replace a file whole: others read it at any moment."""
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(text)
    os.replace(fresh, path)


def sbatch(arguments: list[str]) -> int:
    assert arguments[0] == "--parsable", arguments
    number = str(len(list(HOME.iterdir())) + 41)
    job = HOME / number
    job.mkdir()
    (job / "script").write_text(Path(arguments[1]).read_text())
    first, _, last = options_of(job / "script").get("array", "").partition("-")
    lives = [["task", number, str(place)] for place in range(int(first), int(last) + 1)] if last else [["run", number]]
    for life in lives:
        put(job / "-".join(["state", *life[2:]]), "PENDING")
        subprocess.Popen(
            [sys.executable, __file__, *life],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    print(number)
    return 0


def task(arguments: list[str]) -> int:
    """The life of one task of an array."""
    job, place = HOME / arguments[0], arguments[1]
    asked, state = options_of(job / "script"), job / f"state-{place}"
    kept = {name: os.environ[name] for name in asked["export"].split(",") if name in os.environ}
    variables = {"SLURM_ARRAY_JOB_ID": job.name, "SLURM_ARRAY_TASK_ID": place, "SLURM_CPUS_PER_TASK": "1"}
    path = asked["output"].replace("%A", job.name).replace("%a", place).replace("%%", "%")
    with open(path, "a") as output:
        script = subprocess.Popen(
            ["bash", str(job / "script")], env={**kept, **variables}, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    put(job / f"pid-{place}", str(script.pid))
    put(state, "RUNNING")
    code = script.wait()
    if state.read_text() == "RUNNING":
        put(state, "COMPLETED" if code == 0 else "OUT_OF_MEMORY" if code == -9 else "FAILED")
    return 0


def run(arguments: list[str]) -> int:
    """The life of a job, once or (requeued) several times."""
    job = HOME / arguments[0]
    asked = options_of(job / "script")
    kept = {name: os.environ[name] for name in asked["export"].split(",") if name in os.environ}
    count = int(asked["nodes"]) * int(asked["ntasks-per-node"])
    variables = {"SLURM_JOB_ID": job.name, "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": str(count), "SLURM_PROCID": "0"}
    while (job / "state").read_text() == "PENDING":
        put(job / "state", "RUNNING")
        with open(asked["output"].replace("%%", "%"), "a") as output:
            script = subprocess.Popen(
                ["bash", str(job / "script")],
                env={**kept, **variables, "SLURM_EXPORT_ENV": asked["export"], "FAKE_SLURM": str(HOME)},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        (job / "pid").write_text(str(script.pid))
        code = script.wait()
        if (job / "requeue").exists():
            (job / "requeue").unlink()
            put(job / "state", "PENDING")
        elif (job / "state").read_text() == "RUNNING":
            put(job / "state", "FAILED" if code else "COMPLETED")
    return 0


def srun(arguments: list[str]) -> int:
    flags = [word for word in arguments if word.startswith("--")]
    first = next(i for i, word in enumerate(arguments) if not word.startswith("--"))
    options = {name: value for name, _, value in (flag[2:].partition("=") for flag in flags[:first])}
    assert options["export"] == "ALL" and options["kill-on-bad-exit"] == "1", options
    job, count = HOME / os.environ["SLURM_JOB_ID"], int(os.environ["SLURM_NTASKS"])
    tasks = []
    for rank in range(count):
        own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_ID": "0"}
        path = re.sub(r"%5t", f"{rank:05d}", options["output"]).replace("%%", "%")
        with open(path, "a") as output:
            environment = {**os.environ, **own, "SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_NODELIST": "n1"}
            tasks.append(subprocess.Popen(arguments[first:], env=environment, stdout=output, stderr=output))
    put(job / "tasks", " ".join(str(task.pid) for task in tasks))
    while (codes := [task.poll() for task in tasks]).count(None):
        bad = [rank for rank, code in enumerate(codes) if code]
        if bad:
            print(f"srun: error: n1: task {bad[0]}: Exited with exit code {codes[bad[0]]}", file=sys.stderr, flush=True)
            time.sleep(2)
            for task in tasks:
                task.kill()
        time.sleep(0.05)
    return max((code if code >= 0 else 128 - code) for code in (task.wait() for task in tasks))


def squeue(arguments: list[str]) -> int:
    job = HOME / next(word.partition("=")[2] for word in arguments if word.startswith("--jobs="))
    if not job.exists():
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    if "--array" in arguments:
        assert "--format=%K %T" in arguments, arguments
        for state in sorted(job.glob("state-*[0-9]")):
            print(f" {state.name.partition('-')[2]} {state.read_text()}")
    else:
        print((job / "state").read_text())
    return 0


def scancel(arguments: list[str]) -> int:
    job = HOME / arguments[-1]
    for array in {HOME / word for word in arguments if word.isdecimal()}:
        for state in array.glob("state-*[0-9]"):
            if state.read_text() in ("PENDING", "RUNNING"):
                put(state, "CANCELLED")
                if (pid := array / state.name.replace("state", "pid")).exists():
                    os.kill(int(pid.read_text()), signal.SIGKILL)
    if not (job / "state").exists():
        return 0
    names = [word.partition("=")[2] for word in arguments if word.startswith("--signal=")]
    if not names:
        put(job / "state", "CANCELLED")
    for pid in (job / "tasks").read_text().split() if (job / "tasks").exists() else []:
        os.kill(int(pid), getattr(signal, f"SIG{names[0] if names else 'KILL'}"))
    return 0


def scontrol(arguments: list[str]) -> int:
    if arguments[:2] == ["show", "hostnames"]:
        assert arguments[2] == "n1"
        print("127.0.0.1")
    else:
        assert arguments[0] == "requeue", arguments
        (HOME / arguments[1] / "requeue").touch()
    return 0


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](sys.argv[2:]))
