"""Periodic saves of a run: everything the next step depends on, which of them stay, and which one to go on from.

A save is a checkpoint with optimizer state in `<work>/saves/step-<number>`. In the background, training waits only for
the plan and a copy of the tensors; one save is under way at a time, it counts when its manifest is published, and if it
fails all ranks learn of it in the same step. The newest `keep_last` stay and the `keep_best` by a validation figure.

A damaged save is reported and the one before it is taken; when all are damaged the run stops, because starting afresh
in silence would be worse. A save of a run that was configured otherwise is refused with the differences.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch.distributed as dist

from schemas.errors import ConfigError, IntegrityError, QuiverError, printable
from schemas.run_layout import SAVES
from schemas.store import commit
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint, retention, safe_unpickle
from trainers.engine.checkpoint.checkpoint import Draft
from trainers.engine.megatron.parallel import is_rank_zero, on_rank_zero
from trainers.save_folders import SaveFolders


class Saves:
    """The saves of `run`; `identity_fields` is what must not have changed when it goes on.

    `tokenizer_files` and `facts` go into every save, so that one that stays can be started from like any checkpoint.
    Saves of the steps in `named_elsewhere` stay, too: those of another trainer go on with them.
    """

    def __init__(
        self,
        run: Run,
        *,
        model: Any,
        optimizer: Any,
        identity_fields: Mapping[str, Any],
        tokenizer_files: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.run, self.folder, self.model, self.optimizer = run, run.paths.folder / SAVES, model, optimizer
        self.folders = SaveFolders(self.folder)
        self.identity_fields = dict(identity_fields)
        self.tokenizer_files, self.facts = dict(tokenizer_files or {}), dict(facts or {})
        apart = run.execution.save_async and dist.is_initialized() and dist.get_world_size() > 1
        self.named_elsewhere: set[int] = set()
        self._group = dist.new_group(backend="gloo") if apart else None
        self._thread: Thread | None = None
        self._fault: BaseException | None = None
        self._news: SimpleQueue[str] = SimpleQueue()

    @property
    def failed(self) -> bool:
        """Whether a save in the background has failed that `settle` has not reported yet."""
        return self._fault is not None

    def steps_beside(self) -> list[list[int]]:
        """Of every complete save, the steps that the trainers beside it had made: the saves that it needs of them."""
        made: list[list[int]] = []
        for path in self.folders.complete().values():
            where = path / checkpoint.TRAIN_STATE
            with suppress(IntegrityError), safe_unpickle.reading(str(where)):
                made.append([int(step) for step in json.loads(where.read_text()).get("beside", [])])
        return made

    def write(self, step: int, figures: Mapping[str, float], state: Mapping[str, Any] | None = None) -> None:
        """Save the state after `step`, then remove what need not stay; `figures` are those of its validation, if any,
        `state` is plain JSON that `resume` gives back.

        With `save_async` it goes on in the background, after the save before it is through.
        """
        self.settle()
        began = time.perf_counter()
        draft = checkpoint.draft(
            str(self.folders.place(step)),
            model=self.model,
            optimizer=self.optimizer,
            train_state={**(state or {}), "step": step, "identity": self.identity_fields},
            tokenizer_files=self.tokenizer_files,
            facts={**self.facts, "figures": {name: value for name, value in figures.items() if math.isfinite(value)}},
            copy=self.run.execution.save_async,
        )
        if not self.run.execution.save_async:
            self._publish(step, draft, began, 0.0)
            return
        waited = time.perf_counter() - began
        given = (step, draft, began, waited)
        self._thread = Thread(target=self._in_background, args=given, name="save", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait for the save that is under way; raises what it failed with, on all ranks."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def close(self) -> None:
        """Wait for the save that is under way when the run ends with another error; its own failure is a warning."""
        try:
            self.settle()
        except Exception as error:
            message = error.what if isinstance(error, QuiverError) else printable(error)
            print(f"warning: the last save failed: {message}", file=sys.stderr)

    def news(self) -> list[str]:
        """What was saved since the last call, and what stays: lines to print on the first rank."""
        return [self._news.get() for _ in range(self._news.qsize())]

    def resume(self, at: int | None = None) -> dict[str, Any]:
        """Load the newest whole save, or the one of step `at`; the `step` it was made after and the `state` it was
        written with, empty where there is none. `ConfigError` where there is none of step `at` (0: before the first);
        those behind `at` are removed: their steps are made again.
        """
        steps, unfinished = on_rank_zero(self.folders.look)
        if at is not None:
            if at and at not in steps:
                raise self._missing(at, steps)
            state = self._load(at) if at else {}
            on_rank_zero(lambda: self._remove_behind(at))
            return state
        damaged: list[IntegrityError] = []
        for step in sorted(steps, reverse=True):
            try:
                return self._load(step)
            except IntegrityError as error:
                damaged.append(error)
                _warn(f"the save of step {step} is damaged: {error.what}")
        if damaged:
            raise damaged[0]
        if unfinished:
            last = max(unfinished)
            _warn(f"the save of step {last} was never finished, and there is none before it: starting afresh")
        return {}

    def finish(self) -> None:
        """Remove the saves of the complete run, except the best, and those that another trainer's best go on with."""
        if is_rank_zero():
            scores, kept = self._scores(), self.run.execution
            stay = retention.best(scores, kept.keep_best, kept.best_by) | (self.named_elsewhere & scores.keys())
            for step in self.folders.places().keys() - stay:
                self.folders.remove(step)
            if stay:
                print(f"the best saves stay in {self.folder}: {self._listed(stay)}", file=sys.stderr)
            else:
                self.folders.remove_all()

    def _in_background(self, step: int, draft: Draft, began: float, waited: float) -> None:
        try:
            self._publish(step, draft, began, waited)
        except BaseException as error:
            self._fault = error

    def _publish(self, step: int, draft: Draft, began: float, waited: float) -> None:
        draft.publish(self._group)
        if not is_rank_zero():
            return
        scores = self._scores()
        stay = retention.stay(scores, self.run) | (self.named_elsewhere & scores.keys())
        for old in self.folders.places().keys() - stay - {step}:
            self.folders.remove(old)
        spent = time.perf_counter() - began
        duration = f"{spent:.2f} s" + (f", {waited:.2f} s of them waited for" if self.run.execution.save_async else "")
        self._news.put(f"saved step {step} ({duration}); kept: {self._listed(stay)}")

    def _listed(self, steps: set[int]) -> str:
        scores, name = self._scores(), self.run.execution.best_by.removeprefix("-")
        texts = {step: "" if scores.get(step) is None else f" ({name} {scores[step]:.4g})" for step in sorted(steps)}
        return ", ".join(f"{step}{text if self.run.execution.keep_best else ''}" for step, text in texts.items())

    def _scores(self) -> dict[int, float | None]:
        """The validation figure of every complete save that decides which are best; None where it has none."""
        scores: dict[int, float | None] = {}
        for step, path in self.folders.places().items():
            with suppress(IntegrityError):
                manifest = commit.read_manifest(str(path))
                if manifest is not None:
                    scores[step] = manifest.facts.get("figures", {}).get(self.run.execution.best_by.removeprefix("-"))
        return scores

    def _remove_behind(self, step: int) -> None:
        later = sorted(number for number in self.folders.places() if number > step)
        if later:
            _warn(f"the run goes on from step {step}: the saves of steps {', '.join(map(str, later))} are removed")
        for number in later:
            self.folders.remove(number)

    def _missing(self, step: int, steps: Sequence[int]) -> ConfigError:
        return ConfigError(
            "no-save",
            f"there is no save of step {step}",
            expected="a step that was saved",
            found=", ".join(map(str, steps)) or "no save",
            where=str(self.folder),
            kept="everything; nothing was changed",
            next="resume from a step that is there, or without a step from the newest",
        )

    def _load(self, step: int) -> dict[str, Any]:
        parts = (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)
        saved = checkpoint.open_checkpoint(str(self.folders.place(step)), parts=parts)
        state = saved.train_state()
        self._check_unchanged(state.get("identity", {}))
        checkpoint.load_weights(self.model, saved)
        checkpoint.load_optimizer(saved, model=self.model, optimizer=self.optimizer)
        return {**state, "step": step}

    def _check_unchanged(self, before: Mapping[str, Any]) -> None:
        now = _flat(self.identity_fields)
        then = _flat(before)
        changed = [n for n in sorted(now.keys() | then.keys()) if now.get(n) != then.get(n)]
        if changed:
            shown = [f"{n}: {printable(then.get(n))} -> {printable(now.get(n))}" for n in changed]
            raise ConfigError(
                "changed-config",
                f"the run to go on with was configured otherwise: {'; '.join(shown)}",
                where=str(self.folder),
                kept="its saves; nothing was started",
                next="give the old settings, or another out (or work) for a new run",
            )


def _warn(text: str) -> None:
    if is_rank_zero():
        print(f"warning: {text}", file=sys.stderr)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) and item else {prefix + name: item}
    return flat
