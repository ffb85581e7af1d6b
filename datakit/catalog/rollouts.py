"""Rollouts of online runs: what every step of a run asked, drew and learnt, beside the checkpoint that comes of it.

They are datasets by the hundred and no results of stages: lists of results leave them out. In the views their answers
are `samples`, what judged these are `rewards`, what was set aside are `rejected`, each with the `step` that drew it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from datakit.catalog.workspace import Entry, Workspace
from schemas.run_layout import ROLLOUTS, RUN_END

_PLACE = re.compile(
    rf"(?P<owner>.+){re.escape(RUN_END)}/{ROLLOUTS}/(?P<kind>step|warmup|validation)=(?P<number>\d{{1,9}})-[0-9a-f]{{8}}"
    r"(?:\.round=\d+)?(?:\.(?P<part>answers|prompts))?"
)


@dataclass(frozen=True)
class Rollout:
    """A dataset of a step: `owner` is the place of the run's checkpoint, `stage` what it holds (`answers`, `prompts`,
    `rows`; `validation` for answers to held-out prompts; `warmup.` before what a network beside the policy alone learnt
    from), `step` the step that it was drawn for, of a validation the steps that were made before.
    """

    entry: Entry
    owner: str
    stage: str
    step: int

    @property
    def labels(self) -> Mapping[str, str | int | None]:
        """What stands beside its rows in every view: those of the run, and the step."""
        run = Entry(root=self.entry.root, place=self.owner, published_ns=0, damage="", made=self.entry.made)
        return {
            "recipe": run.recipe,
            "experiment": run.experiment,
            "iteration": run.iteration,
            "stage": self.stage,
            "dataset": f"{run.name}{RUN_END}/{ROLLOUTS}",
            "variant": run.variant,
            "op": self.entry.made.op,
            "policy": self.owner,
            "step": self.step,
        }

    @property
    def ops(self) -> frozenset[str]:
        """The names of the operations that its rows went through in one step."""
        chain = self.entry.made.params.get("ops")
        names = [one.get("name") for one in chain if isinstance(one, dict)] if isinstance(chain, list) else []
        return frozenset(one for one in names if isinstance(one, str))

    @property
    def holds_answers(self) -> bool:
        """Whether its rows are answers as they were drawn."""
        return self.stage.removeprefix("warmup.") in ("answers", "validation")


def rollouts_of(entries: Sequence[Entry]) -> list[Rollout]:
    """Those of `entries` that are rollouts of a step."""
    return [*_rollouts(entries)]


def _rollouts(entries: Sequence[Entry]) -> Iterator[Rollout]:
    for entry in entries:
        match = _PLACE.fullmatch(entry.place)
        if match is not None:
            kind = match["kind"]
            part = "validation" if kind == "validation" else match["part"] or "rows"
            yield Rollout(entry, match["owner"], f"warmup.{part}" if kind == "warmup" else part, int(match["number"]))


def steps_gone(workspace: Workspace) -> Mapping[str, frozenset[int]]:
    """The steps whose rows were dropped (`keep_rollouts`), by the place of the run's checkpoint."""
    steps = defaultdict[str, set[int]](set)
    for one in _rollouts(workspace.dropped):
        if one.stage == "rows":
            steps[one.owner].add(one.step)
    return {owner: frozenset(several) for owner, several in steps.items()}


def of_last_runs(rollouts: Sequence[Rollout], finished: Sequence[Entry], last: Collection[str]) -> list[Rollout]:
    """Those of runs whose checkpoint is of a last run; of a name that has no finished checkpoint those of the run that
    drew last.
    """
    names, by_name = {one.name for one in finished}, defaultdict[str, list[Rollout]](list)
    for one in rollouts:
        by_name[_name(one)].append(one)
    unfinished = [own for name, own in by_name.items() if name not in names]
    newest = {max(own, key=lambda one: one.entry.finished).owner for own in unfinished}
    return [one for one in rollouts if one.owner in last or one.owner in newest]


def _name(rollout: Rollout) -> str:
    """The name of the checkpoint that its run makes."""
    entry = rollout.entry
    return Entry(root=entry.root, place=rollout.owner, published_ns=0, damage="", made=entry.made).name
