"""The rows of a step of an online run: asked for, drawn, rewarded and labelled by operations, and kept.

    <run>/rollouts/step=000001-<key>/             what was learnt, every column that led to it beside
    <run>/rollouts/step=000001-<key>.answers/     what was drawn and how it was judged
    <run>/rollouts/step=000001-<key>.prompts/     what was asked
    <run>/rollouts/step=000001-<key>.round=2.prompts/, .answers/   what was asked in place of some that taught nothing
    <run>/rollouts/validation=000010-<key>/       answers to held-out prompts, of the weights after step 10

Three datasets are committed for a step, two more for each further round; nothing of them depends on when it was made,
so a run that goes on from a save finds those it needs. They count only for the very weights that they were drawn from,
and judged by: their manifests hold checksums of these, and what others drew is removed, with a note. The rounds that
networks beside the policy alone learn from are called `warmup=000001` and on.

One step off (`step.lag` 1) the answers of step k + 1 are drawn before step k is learnt, and lie there when a save of
step k + 1 is: their manifest names the weights that drew them, that of the rows those which judged them.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial

import pyarrow as pa

from datakit.apply import apply
from datakit.clients import TOKENIZED_PROMPTS
from datakit.op import Op
from datakit.run.chain import JoinedChain
from datakit.run.progress import Progress
from datakit.run.resource import Resource
from pipelines.online.config import NETWORKS, OnlineRun, identity_fields, trainings
from pipelines.online.figures import figures, mean_reward, of_answers
from pipelines.online.guards import IN_A_FILE
from pipelines.online.kept_rollouts import drop, made_again, manifest_of
from pipelines.online.learners import KINDS
from pipelines.online.logprobs import served
from pipelines.online.models import Policy, opened, tokenizer_of
from pipelines.online.network import Networks
from pipelines.online.rounds import Round, prompts_kept, window_of
from schemas.canonical import json_digest
from schemas.dataset import Dataset
from schemas.errors import DataError, HealthError
from schemas.manifest import Manifest
from schemas.run_layout import ROLLOUTS
from schemas.store.commit import read_manifest
from schemas.store.opening import open_store
from schemas.store.storage import shown
from trainers.engine.megatron import parallel
from trainers.engine.megatron.leading import Lead
from trainers.engine.training.trainer import Trainer
from trainers.registry import configured

WEIGHTS = "generator"
"""What an answer comes from: the resource, and the fact that holds the checksum of the weights."""


class StepRows:
    """Called with how many optimizer steps were made: the rows of the next one, and figures of its rollouts.

    prompts: PROMPTS with `prompt_ids`, in the order in which they are asked. task_key: that of the run. beside:
    trainers of what learns from the same rows, by kind: all their steps are made here, those of a warm-up before the
    first rows.
    """

    def __init__(
        self, online: OnlineRun, trainer: Trainer, prompts: Dataset, task_key: str, beside: Mapping[str, Trainer]
    ) -> None:
        _enough(prompts, online.step.prompts)
        _check_rows(online, prompts)
        self.online, self.trainer, self.prompts = online, trainer, prompts
        declared = online.learners
        self.learners = {name: KINDS[name](one, declared[name].warmup) for name, one in beside.items()}
        self._warmup = online.warmup
        step_key = {"step": identity_fields(online.step, declared), **trainings(declared)}
        self.rows_key = json_digest({"run": task_key, **step_key})
        self._rewards: dict[int, float] = {}
        self._needed = 0
        self._answering = replace(online.step.answering, max_rejected_share=online.max_rejected)
        self._labelling = replace(online.step.labelling, max_rejected_share=online.max_rejected)
        known = {question: answer for one in self.learners.values() for question, answer in one.served.items()}
        columns = (*online.step.logprobs, *(("old_logprobs",) if online.step.asks_policy else ()))
        known |= served(trainer, columns, first_policy=online.asks_first_policy)
        self._lead = Lead({"generate": trainer.generator().generate, **known})
        self._models = opened(online, self._answering, prompts) if parallel.is_rank_zero() else {}

    def __call__(self, number: int) -> tuple[pa.Table, Mapping[str, float]]:
        """`HealthError` where nothing is left to learn."""
        step, part = divmod(number, self.online.step.updates)
        if number == 0:
            self._warm_up()
        self._drop(step)
        rollouts = self._rollouts(Round(step), begun=part > 0)
        rows = self._part(rollouts, part, f"step {step + 1}")
        answers = answers_of(rollouts)
        made = figures(rollouts, answers)
        self.online.guards.check(step + 1, made, self._highest_before(step), rollouts, answers)
        if self.online.step.lag and not part:
            self._draw_ahead(step)
        self._rewards[step] = mean_reward([one.manifest for one in answers])
        for learner in self.learners.values():
            made |= learner.learn(rows)
        return rows, made

    def _draw_ahead(self, step: int) -> None:
        """The answers of the step behind `step`, where there is one, by the weights before `step` is learnt."""
        at, weights = Round(step + 1), self.trainer.weights_checksum
        if at.number < (self.online.run.learning.max_steps or 0) // self.online.step.updates:
            self._lead.run(lambda: self._drawn_ahead(at, weights, step))

    def _drawn_ahead(self, at: Round, weights: str, version: int) -> None:
        models = {WEIGHTS: self._own(weights, version), **self._models}
        self._rounds(at, self._place(at), weights, models)

    def _drop(self, made: int) -> None:
        """Remove rollouts that need not stay, so many steps being `made`, which no save that the run would go on from
        needs: the newest ones, as many as stay.
        """
        run = self.online.run
        saved = (
            sorted(self.trainer.saves.folders.complete())[-run.execution.keep_last :] if parallel.is_rank_zero() else []
        )
        needed = saved[0] // self.online.step.updates + 1 if saved else 0
        if needed > self._needed:
            drop(run.paths.folder, self.online.keep_rollouts, made=made, needed=needed, warmup=self._warmup)
            self._needed = needed

    def _highest_before(self, step: int) -> float:
        """The highest mean reward of the steps before `step`; of those before a save, as manifests tell it, of those
        that were dropped, too.
        """
        for number in range(step if self.online.guards.max_reward_drop is not None else 0):
            if number not in self._rewards:
                self._rewards[number] = mean_reward(manifests_of_answers(self._place(Round(number))))
        return max((reward for number, reward in self._rewards.items() if number < step), default=-math.inf)

    def validate(self, number: int) -> dict[str, float]:
        """Figures of one answer to every held-out prompt, by the weights after `number` steps."""
        weights = {WEIGHTS: self.trainer.weights_checksum}
        answers = Dataset.open(self._lead.run(lambda: self._validated(number, weights)))
        asked = of_answers(answers.read())
        return {**asked, "dropped": float(sum(file.rows for file in answers.rejected))}

    def _validated(self, number: int, weights: Mapping[str, str]) -> str:
        """Where the answers to held-out prompts lie, drawn where they are not, with the same draws each time."""
        place = self.online.run.paths.validation
        assert place is not None, "validated where there is something to validate on"
        held_out = Dataset.open(place)
        round_key = json_digest({"run": self.rows_key, "validation": number, "prompts": held_out.content_digest})
        url = f"{self.online.run.paths.folder}/{ROLLOUTS}/validation={number:06d}-{round_key[:8]}"
        _remove_of_others(url, weights)
        drawing = int(json_digest({"seed": self.online.run.learning.seed, "validation": 0})[:15], 16)
        op = replace(self.online.step.validating, max_rejected_share=self.online.max_rejected)
        version = number // self.online.step.updates
        validation_key = json_digest({"validation": round_key, "weights": weights[WEIGHTS]})
        return self._apply(
            op, held_out, url, validation_key, drawing, {WEIGHTS: self._own(weights[WEIGHTS], version), **self._models}
        ).url

    def _own(self, weights: str, version: int) -> Resource:
        """The policy as it stands, with this checksum and so many steps behind it, as operations ask it."""
        opened = partial(Policy, self._lead, version)
        return Resource(weights, opened, TOKENIZED_PROMPTS, tokenizer_of(self.trainer))

    def _warm_up(self) -> None:
        """All steps of what learns beside the policy before the policy's first."""
        for number in range(self._warmup):
            rollouts = self._rollouts(Round(number, warmup=True))
            learning = {name: one for name, one in self.learners.items() if number < one.warmup}
            where = f"round {number + 1} of the {' and '.join(learning)}'s warm-up"
            for part in range(self.online.step.updates):
                rows = self._part(rollouts, part, where)
                for learner in learning.values():
                    learner.learn(rows)

    def _rollouts(self, at: Round, *, begun: bool = False) -> Dataset:
        weights = {WEIGHTS: self.trainer.weights_checksum}
        if self.learners:
            weights[NETWORKS] = self._weights_beside()
        return Dataset.open(self._lead.run(lambda: self._made(at, weights, begun=begun)))

    def _weights_beside(self) -> str:
        """The checksum of the weights of what learns beside the policy, as they stand."""
        sums = {name: one.weights for name, one in self.learners.items()}
        return next(iter(sums.values())) if len(sums) == 1 else json_digest(sums)

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
        url = self._place(at)
        if begun and (manifest := read_manifest(url)) is not None:
            weights = {name: str(manifest.facts[name]) for name in weights}
        drawn_by = self._drawn_by(at, url, weights[WEIGHTS])
        _remove_of_others(f"{url}.answers", {WEIGHTS: drawn_by})
        _remove_of_others(url, weights)
        if Dataset.exists(url):
            return url
        models = {WEIGHTS: self._own(weights[WEIGHTS], 0 if at.warmup else at.number), **self._models}
        answers = self._rounds(at, url, drawn_by, models)
        drawing, keys = self._drawing(at), [one.task_key for one in answers]
        drawn = keys[0] if len(keys) == 1 else json_digest(keys)
        if self.learners or self.online.asks_first_policy:
            beside = {name: one.answers for name, one in self.learners.items()}
            models[NETWORKS] = Resource(weights.get(NETWORKS, self._first_key), lambda: Networks(self._lead, beside))
        judged = {"rows of": drawn, **({"+".join(self.learners): weights[NETWORKS]} if NETWORKS in weights else {})}
        judged |= {"by": weights[WEIGHTS]} if self.online.step.lag else {}
        op = self._labelling if len(answers) == 1 else JoinedChain(**vars(self._labelling))
        return self._apply(op, answers, url, json_digest(judged), drawing, models).url

    def _drawn_by(self, at: Round, url: str, weights: str) -> str:
        """The checksum of the weights that are to have drawn the answers of a round: those that stand, or one step off
        whatever drew them before the step before was learnt.
        """
        if not self.online.step.lag or at.warmup or at.number == 0:
            return weights
        ahead = read_manifest(f"{url}.answers")
        if ahead is not None:
            return str(ahead.facts[WEIGHTS])
        note = f"note: {shown(url)}.answers is gone: the answers of this step are drawn by the weights as they stand"
        print(note, file=sys.stderr)
        return weights

    def _place(self, at: Round) -> str:
        """Where the rollouts of a step lie."""
        round_key = json_digest({"run": self.rows_key, **at.position})
        return f"{self.online.run.paths.folder}/{ROLLOUTS}/{at}-{round_key[:8]}"

    def _rounds(self, at: Round, url: str, weights: str, models: Mapping[str, Resource]) -> list[Dataset]:
        """The answers to the prompts of a step by these weights, round by round."""
        step, there, made, sizes = self.online.step, self.prompts.num_rows, list[Dataset](), list[int]()
        number = at.number if at.warmup else self._warmup + at.number
        while len(made) < step.max_rounds:
            kept = prompts_kept(step.filters, made) if made else 0
            asked = window_of(number, step.prompts, there, sizes, kept)
            if asked is None:
                break
            one = replace(at, again=len(made))
            step_key, drawing = json_digest({"run": self.rows_key, **one.position}), self._drawing(one)
            drawn = json_digest({"step": step_key, "weights": weights})
            place = f"{url}{one.suffix}"
            _remove_of_others(f"{place}.answers", {WEIGHTS: weights})
            prompts = self._apply(asked, self.prompts, f"{place}.prompts", step_key, drawing, {})
            made.append(self._apply(self._answering, prompts, f"{place}.answers", drawn, drawing, models))
            sizes.append(prompts.num_rows)
        return made

    def _drawing(self, at: Round) -> int:
        """The seed of the draws of a round."""
        number = at.number if at.warmup else self._warmup + at.number
        position = {"seed": self.online.run.learning.seed, "step": number}
        return int(json_digest({**position, **({"round": at.again} if at.again else {})})[:15], 16)

    @cached_property
    def _first_key(self) -> str:
        """The content of the checkpoint that the policy began with; empty for a fresh network."""
        init = self.online.run.paths.init
        manifest = None if init is None else read_manifest(init)
        return "" if manifest is None else manifest.content_digest

    def _apply(
        self, op: Op, rows: Dataset | list[Dataset], into: str, task_key: str, seed: int, models: Mapping[str, Resource]
    ) -> Dataset:
        """`apply` in this process, under this key."""
        needed = {name: models[name] for name in op.needs if name in models}
        made = apply(op, rows, into, resources=needed, seed=seed, task_key=task_key, on_progress=self._progressed)
        made_again(into)
        return made

    def _progressed(self, _: Progress) -> None:
        self._lead.progressed()


def answers_of(rollouts: Dataset) -> list[Dataset]:
    """What was drawn for a step, round by round."""
    return [Dataset.open(place) for place in itertools.takewhile(Dataset.exists, _places_of_answers(rollouts.url))]


def manifests_of_answers(place: str) -> list[Manifest]:
    """The manifests of what was drawn for the step at `place`, round by round, whether its rows are there or not."""
    manifests = (manifest_of(one) for one in _places_of_answers(place))
    return [*iter(lambda: next(manifests), None)]


def _places_of_answers(place: str) -> Iterator[str]:
    return (f"{place}{Round(0, again=again).suffix}.answers" for again in itertools.count())


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


def _check_rows(online: OnlineRun, prompts: Dataset) -> None:
    """`DataError` for operations that lack a column or give none that the algorithm reads, `ConfigError` for a bound
    that rows never break.
    """
    step, learning, out = online.step, online.run.learning, online.run.paths.out
    algorithm, _ = configured(learning.algorithm, learning.settings, where=out)
    rows = step.labelling.gives(step.answering.gives(prompts.schema))
    rows.requires(algorithm.rows, f"train.{algorithm.name}")
    online.guards.check_rows(rows.names, algorithm, out, IN_A_FILE)


def _remove_of_others(place: str, weights: Mapping[str, str]) -> None:
    """Remove what other weights drew: a run that was changed, or went on at another layout, draws its own."""
    manifest = read_manifest(place)
    if manifest is None or weights.items() <= {name: manifest.facts.get(name) for name in weights}.items():
        return
    print(f"note: {shown(place)} was drawn from other weights than stand here: it is made anew", file=sys.stderr)
    store, folder = open_store(place)
    store.remove_tree(folder)
