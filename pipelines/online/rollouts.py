"""The rows of a step of an online run: asked for, drawn, rewarded and labelled by operations, and kept.

    <run>/rollouts/step=000001-<key>/             what was learnt, every column that led to it beside
    <run>/rollouts/step=000001-<key>.answers/     what was drawn and how it was judged
    <run>/rollouts/step=000001-<key>.prompts/     what was asked

Three datasets are committed for a step; nothing of them depends on when it was made, so a run that goes on from a save
finds those it needs. They count only for the very weights that they were drawn from, and judged by: their manifests
hold checksums of these, and what others drew is removed, with a note. The rounds that the critic alone learns from
are called `warmup=000001` and on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from datakit.apply import apply
from datakit.clients import TOKENIZED_PROMPTS
from datakit.filter import Window
from datakit.op import Op
from datakit.run.progress import Progress
from datakit.run.resource import Resource
from pipelines.online.config import VALUING, OnlineRun, identity_fields
from pipelines.online.critic import Critic
from pipelines.online.figures import figures
from pipelines.online.logprobs import served
from pipelines.online.models import Policy, opened, tokenizer_of
from pipelines.online.network import Networks
from schemas.canonical import json_digest
from schemas.dataset import Dataset
from schemas.errors import DataError, HealthError
from schemas.store.commit import read_manifest
from schemas.store.opening import open_store
from schemas.store.storage import shown
from trainers.engine.megatron import parallel
from trainers.engine.megatron.leading import Lead
from trainers.engine.training.trainer import Trainer

WEIGHTS = "generator"
"""What an answer comes from: the resource, and the fact that holds the checksum of the weights."""


@dataclass(frozen=True)
class Round:
    """Prompts that are asked together: those of step `number`, from 0, or of the critic's warm-up before them."""

    number: int
    warmup: bool = False

    @property
    def position(self) -> dict[str, int]:
        """What sets it apart from the other rounds of a run."""
        return {"warmup" if self.warmup else "step": self.number}

    def __str__(self) -> str:
        return f"{'warmup' if self.warmup else 'step'}={self.number + 1:06d}"


class StepRows:
    """Called with how many optimizer steps were made: the rows of the next one, and figures of its rollouts.

    prompts: PROMPTS with `prompt_ids`, in the order in which they are asked. task_key: that of the run. critic: what
    learns from the same rows: all its steps are made here, those of its warm-up before the first rows.
    """

    def __init__(
        self, online: OnlineRun, trainer: Trainer, prompts: Dataset, task_key: str, critic: Trainer | None = None
    ) -> None:
        _enough(prompts, online.step.prompts)
        self.online, self.trainer, self.prompts = online, trainer, prompts
        self.critic = None if critic is None else Critic(critic)
        beside = {} if online.critic is None else {"critic": online.critic.learning.op}
        self.rows_key = json_digest({"run": task_key, "step": identity_fields(online.step), **beside})
        self._answering = replace(online.step.answering, max_rejected_share=online.max_rejected)
        self._labelling = replace(online.step.labelling, max_rejected_share=online.max_rejected)
        known = {} if self.critic is None else self.critic.served
        known |= served(trainer, online.step.logprobs, first_policy=online.asks_first_policy)
        self._lead = Lead({"generate": trainer.generator().generate, **known})
        self._models = opened(online, self._answering, prompts) if parallel.is_rank_zero() else {}

    def __call__(self, number: int) -> tuple[pa.Table, Mapping[str, float]]:
        """`HealthError` where nothing is left to learn."""
        step, part = divmod(number, self.online.step.updates)
        if number == 0:
            self._warm_up()
        rollouts = self._rollouts(Round(step), begun=part > 0)
        rows = self._part(rollouts, part, f"step {step + 1}")
        learnt = {} if self.critic is None else self.critic.learn(rows)
        answers = Dataset.open(f"{rollouts.url}.answers")
        return rows, {**figures(rollouts, answers), **learnt}

    def _warm_up(self) -> None:
        """All steps of the critic before the policy's first."""
        for number in range(self.online.step.critic_warmup):
            rollouts = self._rollouts(Round(number, warmup=True))
            for part in range(self.online.step.updates):
                assert self.critic is not None, "a configuration without one is refused"
                self.critic.learn(self._part(rollouts, part, f"round {number + 1} of the critic's warm-up"))

    def _rollouts(self, at: Round, *, begun: bool = False) -> Dataset:
        weights = {WEIGHTS: self.trainer.weights_checksum}
        if self.critic is not None:
            weights[VALUING] = self.critic.weights
        return Dataset.open(self._lead.run(lambda: self._made(at, weights, begun=begun)))

    def _part(self, rollouts: Dataset, part: int, name: str) -> pa.Table:
        """The rows of an update, the whole of which are `rollouts`."""
        rows, updates = rollouts.read(), self.online.step.updates
        first, stop = (rows.num_rows * at // updates for at in (part, part + 1))
        if first == stop:
            raise HealthError(
                "no-rows-left",
                f"nothing is left to learn of the answers of {name}",
                expected=f"{updates} rows at least",
                found=f"{rows.num_rows}",
                where=shown(rollouts.url),
                next=f"quiver show {shown(rollouts.url)}",
            )
        return rows.slice(first, stop - first)

    def _made(self, at: Round, weights: Mapping[str, str], *, begun: bool) -> str:
        """Where the rollouts of a round lie, made where they are not. Those of a step that is `begun` were drawn from
        the weights before its first update, and judged by them.
        """
        round_key = json_digest({"run": self.rows_key, **at.position})
        url = f"{self.online.run.paths.folder}/rollouts/{at}-{round_key[:8]}"
        if begun and (manifest := read_manifest(url)) is not None:
            weights = {name: str(manifest.facts[name]) for name in weights}
        _remove_of_others(f"{url}.answers", {WEIGHTS: weights[WEIGHTS]})
        _remove_of_others(url, weights)
        if Dataset.exists(url):
            return url
        step, learning = self.online.step, self.online.run.learning
        number = at.number if at.warmup else step.critic_warmup + at.number
        drawing = int(json_digest({"seed": learning.seed, "step": number})[:15], 16)
        asked = Window(offset=number * step.prompts, limit=step.prompts, wrap=True)
        prompts = self._apply(asked, self.prompts, f"{url}.prompts", round_key, drawing, {})
        drawn = json_digest({"step": round_key, "weights": weights[WEIGHTS]})
        own = Resource(weights[WEIGHTS], lambda: Policy(self._lead), TOKENIZED_PROMPTS, tokenizer_of(self.trainer))
        models = {WEIGHTS: own, **self._models}
        answers = self._apply(self._answering, prompts, f"{url}.answers", drawn, drawing, models)
        if self.critic is not None or self.online.asks_first_policy:
            models[VALUING] = Resource(weights.get(VALUING, self._first_key), lambda: Networks(self._lead))
        judged = {"rows of": drawn, **({"critic": weights[VALUING]} if VALUING in weights else {})}
        return self._apply(self._labelling, answers, url, json_digest(judged), drawing, models).url

    @cached_property
    def _first_key(self) -> str:
        """The content of the checkpoint that the policy began with; empty for a fresh network."""
        init = self.online.run.paths.init
        manifest = None if init is None else read_manifest(init)
        return "" if manifest is None else manifest.content_digest

    def _apply(
        self, op: Op, rows: Dataset, into: str, task_key: str, seed: int, models: Mapping[str, Resource]
    ) -> Dataset:
        """`apply` in this process, under this key."""
        needed = {name: models[name] for name in op.needs if name in models}
        return apply(op, rows, into, resources=needed, seed=seed, task_key=task_key, on_progress=self._progressed)

    def _progressed(self, _: Progress) -> None:
        self._lead.progressed()


def _enough(prompts: Dataset, asked: int) -> None:
    """`DataError` for fewer `prompts` than a step asks, each once: they were more before some were set aside."""
    there = prompts.num_rows
    if there < asked:
        raise DataError(
            "too-few-prompts",
            f"a step asks {asked} prompts, and {there} are left of those that a model reads",
            expected=f"at most {there} prompts of a step",
            found=str(asked),
            where=shown(prompts.url),
            kept="every finished stage",
            next=f"--prompts-per-step {there}" if there else f"quiver show {shown(prompts.url)}",
        )


def _remove_of_others(place: str, weights: Mapping[str, str]) -> None:
    """Remove what other weights drew: a run that was changed, or went on at another layout, draws its own."""
    manifest = read_manifest(place)
    if manifest is None or weights.items() <= {name: manifest.facts.get(name) for name in weights}.items():
        return
    print(f"note: {shown(place)} was drawn from other weights than stand here: it is made anew", file=sys.stderr)
    store, folder = open_store(place)
    store.remove_tree(folder)
