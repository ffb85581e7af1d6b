"""Small online runs. As a program: `python -m pipelines.online`, with every draw written down, and a signal at one.

python -m tests.pipelines.online.runs CONFIG.json [before|after CALL SIGNAL]
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from datakit.clients import Sampling
from datakit.filter import Where
from datakit.generate import Complete
from datakit.label import Gae, Kl, Reward, TokenRewards, Values, Whiten
from datakit.online import StepLogprobs
from datakit.op import Op
from datakit.tokenize import Drawn
from pipelines.online import config
from pipelines.online.config import OnlineRun, settings_of
from pipelines.online.kept_rollouts import manifest_of
from pipelines.online.learner import LearnerRun
from schemas import PROMPTS, Column
from schemas.canonical import plain
from schemas.dataset import Dataset
from schemas.rows.conversation import IDS
from schemas.store.commit import read_manifest
from tests.pipelines.commands import environment
from tests.trainers import online, toys

STEPS, PROMPTS_OF_STEP = 5, 6
TOKENIZED = PROMPTS.adding(Column("prompt", pa.string(), "text"), Column("prompt_ids", IDS, "its tokens"))
LEARNT: tuple[Op, ...] = (Drawn(), Where(predicate="reward > 0"))
"""Rejection sampling: answers with a reward above 0 are learnt by `sft`."""


def prompts(folder: Path, count: int = 16) -> Dataset:
    """Prompts of four tokens."""
    ids = toys.ids(count, seed=5, least=4, most=5)
    turn = {"role": "user", "content": "w", "tool_calls": None, "tool_call_id": None, "reasoning": None, "weight": None}
    columns: dict[str, Any] = {"prompt_id": [f"p{n}" for n in range(count)], "messages": [[turn]] * count}
    columns |= {"prompt": [" ".join(f"w{one}" for one in row) for row in ids], "prompt_ids": ids}
    columns |= {name: [None] * count for name in TOKENIZED.names if name not in columns}
    return Dataset.from_arrow(pa.table(columns, schema=TOKENIZED.arrow), TOKENIZED, str(folder / "prompts"))


def online_run(folder: Path, name: str, rows: tuple[Op, ...] = LEARNT, updates: int = 1, **changes: Any) -> OnlineRun:
    """A run of five steps over `prompts(folder)`, two answers to each, rewarded by `judges:letters`."""
    sampling = Sampling(samples_per_prompt=2, max_new_tokens=6)
    answers: tuple[Op, ...] = (Complete(sampling=sampling, rows_per_chunk=4), Reward())
    run = online.a_run(folder, name, data=str(folder / "prompts"), **{"max_steps": STEPS * updates, **changes})
    step = config.StepConfig(
        prompts=PROMPTS_OF_STEP, answers=settings_of(answers), rows=settings_of(rows), updates=updates
    )
    return OnlineRun(run=run, step=step, models={"scorer": "judges:letters"})


WARMUP = 2
"""Rounds of `critic_run` before the first step."""


def critic_run(folder: Path, name: str, updates: int = 1, **changes: Any) -> OnlineRun:
    """A run of PPO with a critic that has a warm-up, beside `online_run`."""
    ppo = {"algorithm": "ppo", "max_steps": STEPS * updates, **changes}
    given = online_run(folder, name, updates=updates, **ppo)
    assert given.run.learning.max_steps is not None
    divergence = (StepLogprobs(columns=("old_logprobs", "ref_logprobs")), Kl(estimator="abs"))
    advantages = (TokenRewards(kl_coefficient=0.1), Values(), Gae(lam=0.9), Whiten())
    step = replace(given.step, rows=settings_of((Drawn(), *divergence, *advantages)))
    steps = updates * WARMUP + given.run.learning.max_steps
    how = {"algorithm": "value", "max_steps": steps, "parallel": changes.get("parallel", {})}
    critic = online.a_run(folder, f"{name} critic", optim={"lr": 1e-2}, save_every=None, **how)
    return replace(given, step=step, learners={"critic": LearnerRun(run=critic, warmup=WARMUP)})


def play(folder: Path, given: OnlineRun, *kill: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """The run in a process of its own, or in several."""
    file = folder / "config.json"
    config.write(file, given)
    command = [sys.executable, "-m", "tests.pipelines.online.runs", str(file), *kill]
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [sys.executable, "-W", "ignore", *launcher, *command[1:]]
    here = Path(__file__).parents[3]
    return subprocess.run(
        command, cwd=here, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def draws(folder: Path) -> list[str]:
    """Every draw that was made since they were last asked for: a line for each prompt and call."""
    file = folder / "draws"
    lines = file.read_text().splitlines() if file.exists() else []
    file.write_text("")
    return lines


def cut_off(folder: Path, given: OnlineRun, call: int, when: str = "before") -> None:
    """Run `given` until it is killed, right before or after that draw, from 1."""
    import pytest

    from pipelines.online.__main__ import execute

    def die(number: int, moment: str) -> None:
        if (number, moment) == (call, when):
            raise online.Killed

    with watched(folder, die), pytest.raises(online.Killed):
        execute(given)


def finished(folder: Path, given: OnlineRun) -> list[str]:
    """Run `given` to its end; every draw since they were last asked for."""
    from pipelines.online.__main__ import execute

    with watched(folder):
        execute(given)
    return draws(folder)


def outcome(given: OnlineRun) -> dict[str, Any]:
    """All that is left of a run and does not depend on the clock."""
    run = given.run
    manifest = read_manifest(run.paths.out)
    assert manifest is not None
    lines = [json.loads(line) for line in (run.paths.folder / "metrics.jsonl").read_text().splitlines()]
    curve = [{name: value for name, value in line.items() if name not in online.TIMES} for line in lines]
    kept = sorted((run.paths.folder / "rollouts").iterdir())
    manifests = {re.sub("-[0-9a-f]{8}", "", place.name): manifest_of(str(place)) for place in kept}
    digests = {name: one.content_digest for name, one in manifests.items() if one is not None}
    assert len(digests) == len(kept)
    return {"curve": curve, "facts": plain(manifest.facts), "rollouts": digests}


@contextmanager
def watched(folder: Path, at: Callable[[int, str], None] = lambda call, when: None) -> Iterator[None]:
    """Every draw of this process is written down; `at` is called before and after each with its number, from 1."""
    from trainers.engine.inference.generator import Generator

    generate, calls = Generator.generate, itertools.count(1)

    def logged(self: Generator, rows: pa.Table, sampling: Any, seeds: Any) -> pa.Table:
        call = next(calls)
        at(call, "before")
        answers = generate(self, rows, sampling, seeds)
        if os.environ.get("RANK", "0") == "0":
            asked = zip(rows["prompt_ids"].to_pylist(), seeds, strict=True)
            with open(folder / "draws", "a") as out:
                out.writelines(f"{ids} {seed}\n" for ids, seed in asked)
        at(call, "after")
        return answers

    Generator.generate = logged  # type: ignore[method-assign]
    try:
        yield
    finally:
        Generator.generate = generate  # type: ignore[method-assign]


def main() -> int:
    from pipelines.online.__main__ import main as entry

    file, *kill = sys.argv[1:]

    def at(call: int, when: str) -> None:
        if kill[:2] == [when, str(call)]:
            os.kill(os.getpid(), getattr(signal, kill[2]))

    with watched(Path(file).parent, at):
        return entry([file])


if __name__ == "__main__":
    raise SystemExit(main())
