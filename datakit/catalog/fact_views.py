"""The views over what manifests say: datasets, checkpoints, tasks, iterations. No file is read for them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from datakit.catalog.last_run import runs
from datakit.catalog.lineage import Lineage
from datakit.catalog.lineage_view import LINEAGE, edges
from datakit.catalog.sql_text import literal, name
from datakit.catalog.stacked import LABELS, View
from datakit.catalog.workspace import Entry
from schemas.run_layout import RECORDS_END

Columns = Mapping[str, tuple[str, str]]
"""Type and meaning of the columns of a view, by name."""

_PLACE: Columns = {label: LABELS[label] for label in ("recipe", "experiment", "iteration")}
_STEP: Columns = {"step": ("INTEGER", "which improve step of the iteration made it")}
_WHEN: Columns = {
    "seconds": ("DOUBLE", "how long that took"),
    "finished": ("TIMESTAMP", "when it was finished, UTC"),
}
_WHERE: Columns = {
    "place": ("VARCHAR", "its folder below the root"),
    "last_run": ("BOOLEAN", "whether it is of the last run of its recipe and experiment"),
    "damage": ("VARCHAR", "what of its files is not as the manifest says; null: nothing"),
    "task_key": ("VARCHAR", "the identity of the result, known before it was made"),
}
_DATASETS: Columns = {
    "dataset": ("VARCHAR", "its name: its place without the key behind it"),
    "variant": LABELS["variant"],
    "kind": ("VARCHAR", "what its rows are"),
    "rows": ("BIGINT", "rows that it holds"),
    "rejected": ("BIGINT", "rows that were set aside when it was made"),
    "bytes": ("BIGINT", "bytes of its files"),
    "shards": ("INTEGER", "files of its rows"),
    "op": LABELS["op"],
    "policy": LABELS["policy"],
    **_PLACE,
    **_STEP,
    "stage": LABELS["stage"],
    **_WHEN,
    "inputs": ("VARCHAR[]", "the places of what it was made of, as it was called then"),
    **_WHERE,
}
_CHECKPOINTS: Columns = {
    "checkpoint": ("VARCHAR", "its place below the root, as in columns called policy, model and checkpoint"),
    "name": ("VARCHAR", "its place without the key behind it"),
    "variant": LABELS["variant"],
    "op": ("VARCHAR", "what made it: the algorithm it was trained with"),
    "bytes": ("BIGINT", "bytes of its files"),
    **_PLACE,
    **_STEP,
    "data": ("VARCHAR", "the place of the rows that it was trained on"),
    "init": ("VARCHAR", "the place of the checkpoint that it began as"),
    "figures": ("JSON", "the last figures of its training"),
    **_WHEN,
    **_WHERE,
}
_TASKS: Columns = {
    "task": ("VARCHAR", "the name of what it made"),
    "variant": LABELS["variant"],
    "op": ("VARCHAR", "the operation, or the algorithm of a training"),
    "settings": ("JSON", "settings that decide the result"),
    "seed": ("BIGINT", "the seed"),
    "inputs": ("VARCHAR[]", "the places of what it read"),
    "rows": ("BIGINT", "rows that came out; null for a checkpoint"),
    "rejected": ("BIGINT", "rows that were set aside"),
    "reasons": ("JSON", "how many of them for each reason"),
    **_PLACE,
    **_STEP,
    **_WHEN,
    **_WHERE,
}
_ITERATIONS: Columns = {
    **_PLACE,
    "samples": ("BIGINT", "answers that the policy gave"),
    "kept": ("BIGINT[]", "rows, or pairs, that each improve step learnt from"),
    "reward": ("DOUBLE", "mean reward of all samples"),
    "kept_reward": ("DOUBLE[]", "mean reward of what each improve step kept"),
    "policies": ("VARCHAR[]", "the checkpoints that were trained, in the order of the steps"),
    "trainings": ("INTEGER", "how many trainings there were"),
    "seconds": ("DOUBLE", "what all its stages took"),
    "finished": ("TIMESTAMP", "when its last stage was finished, UTC"),
}
_REWARDS = ("reward", "chosen_reward")


def fact_views(entries: Sequence[Entry], lineage: Lineage, last: frozenset[str]) -> dict[str, View]:
    """Every view over manifests, by name."""
    datasets = [entry for entry in entries if entry.made.kind == "dataset"]
    checkpoints = [entry for entry in entries if entry.made.kind != "dataset"]
    common = {entry.place: _common(entry, last) for entry in entries}
    return {
        "datasets": listed(
            _DATASETS, [common[one.place] | _dataset(one, lineage) for one in datasets], "datasets, one a row"
        ),
        "checkpoints": listed(
            _CHECKPOINTS, [common[one.place] | _checkpoint(one) for one in checkpoints], "checkpoints, one a row"
        ),
        "tasks": listed(
            _TASKS,
            [common[one.place] | _task(one) for one in entries if not one.place.endswith(RECORDS_END)],
            "stages that are done, one a row: what they made, of what, with which settings",
        ),
        "iterations": listed(
            _ITERATIONS,
            _iterations(entries, lineage),
            "iterations of recipes, one a row; of one that has several variants, each",
        ),
        "lineage": listed(LINEAGE, [*edges(entries, lineage)], "what results were made of: one row for each input"),
    }


def listed(columns: Columns, rows: Sequence[Mapping[str, Any]], meaning: str) -> View:
    """A view of `rows` that its text holds, as one piece of JSON: quicker to read than as many literals."""
    kinds = {column: "VARCHAR" if kind == "JSON" else kind for column, (kind, _) in columns.items()}
    shape = json.dumps([{column: [kind[:-2]] if kind.endswith("[]") else kind for column, kind in kinds.items()}])
    text = json.dumps([{column: row[column] for column in columns} for row in rows])
    chosen = ", ".join(
        f"e.{name(column)}{'::JSON' if kind == 'JSON' else ''} AS {name(column)}"
        for column, (kind, _) in columns.items()
    )
    sql = f"SELECT {chosen} FROM (SELECT unnest(from_json({literal(text)}, {literal(shape)})) AS e)"
    return View(sql, meaning, {column: text for column, (_, text) in columns.items()})


def _common(entry: Entry, last: frozenset[str]) -> dict[str, Any]:
    moment = datetime.fromtimestamp(entry.finished[0], timezone.utc).replace(tzinfo=None)
    return {
        "variant": entry.variant,
        "op": entry.made.op,
        "bytes": entry.bytes,
        "rejected": sum(rows for _, rows, _ in entry.made.rejected),
        "recipe": entry.recipe,
        "experiment": entry.experiment,
        "iteration": entry.iteration,
        "step": entry.step,
        "stage": entry.stage,
        "seconds": entry.made.seconds,
        "finished": moment.isoformat(sep=" "),
        "inputs": [_below(entry, url) for _, url, _, _ in entry.made.parents],
        "place": entry.place,
        "last_run": entry.place in last,
        "damage": entry.damage or None,
        "task_key": entry.made.task_key,
    }


def _below(entry: Entry, url: str) -> str:
    """A place as seen from the root, where it lies below it."""
    return url.removeprefix(f"{entry.root}/")


def _dataset(entry: Entry, lineage: Lineage) -> dict[str, Any]:
    return {
        "dataset": entry.name,
        "kind": entry.made.rows_kind,
        "rows": entry.rows,
        "shards": len(entry.made.files),
        "policy": lineage.labels(entry)["policy"],
    }


def _checkpoint(entry: Entry) -> dict[str, Any]:
    given = {role: _below(entry, url) for role, url, _, _ in entry.made.parents}
    figures = entry.made.facts.get("stats")
    return {
        "checkpoint": entry.place,
        "name": entry.name,
        "data": given.get("data"),
        "init": given.get("init"),
        "figures": json.dumps(figures) if isinstance(figures, dict) else None,
    }


def _task(entry: Entry) -> dict[str, Any]:
    return {
        "task": entry.name,
        "settings": json.dumps(entry.made.params),
        "seed": entry.made.seed,
        "rows": entry.rows if entry.made.kind == "dataset" else None,
        "reasons": json.dumps(entry.made.reasons),
    }


def _iterations(entries: Sequence[Entry], lineage: Lineage) -> list[dict[str, Any]]:
    """A row for every iteration and variant of it, by the names that recipes give their stages."""
    chosen = {entry.place for entry in entries}
    rounds: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for index, entry in enumerate(lineage.entries):
        if entry.iteration is not None and entry.place in chosen:
            rounds[entry.recipe or "", entry.experiment or "", entry.iteration].append(index)
    return [
        _iteration(*key, sorted((lineage.entries[index] for index in run), key=lambda one: one.step or 0))
        for key, run in runs(lineage, dict(sorted(rounds.items())))
    ]


def _iteration(recipe: str, experiment: str, iteration: int, entries: Sequence[Entry]) -> dict[str, Any]:
    stages: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        stages[entry.stage].append(entry)
    kept = stages["kept"] or stages["pairs"]
    trained = [entry for entry in entries if entry.made.kind == "checkpoint"]
    finished = max(entry.finished[0] for entry in entries)
    return {
        "recipe": recipe or None,
        "experiment": experiment or None,
        "iteration": iteration,
        "samples": sum(entry.rows for entry in stages["samples"]) if stages["samples"] else None,
        "kept": [entry.rows for entry in kept],
        "reward": next((mean for entry in stages["rewards"] if (mean := _reward(entry)) is not None), None),
        "kept_reward": [_reward(entry) for entry in kept],
        "policies": [entry.place for entry in trained],
        "trainings": len(trained),
        "seconds": sum(entry.made.seconds or 0.0 for entry in entries),
        "finished": datetime.fromtimestamp(finished, timezone.utc).replace(tzinfo=None).isoformat(sep=" "),
    }


def _reward(entry: Entry) -> float | None:
    return next((entry.made.means[column] for column in _REWARDS if column in entry.made.means), None)
