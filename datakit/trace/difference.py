"""Two iterations, experiments, datasets or checkpoints held against each other, by SQL over the views of a workspace.

Each side gives relations of one shape (ids, numbers, lengths, ends), all of which carry `side` and `stage`; a question
over both sides answers one part. A folder gives the samples, pairs and rewards of its results, a checkpoint those of
the answers that it gave and the rows that it was trained on, a dataset its own rows and what was measured of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from datakit.catalog.lineage import Lineage
from datakit.catalog.named import Named
from datakit.catalog.sql_text import literal, name
from datakit.catalog.workspace import Entry
from datakit.columns.measurement import TIED_WITHIN
from datakit.duck.child import SqlProcess
from datakit.trace.paired import with_intervals
from datakit.trace.row_ids import ENTITIES
from datakit.trace.scans import asked, source
from schemas.run_layout import RECORDS_END

_TEXTS = ("prompt", "response", "chosen", "rejected", "text")
"""Columns whose characters are counted."""
_PAIR_REWARDS = ("chosen_reward", "rejected_reward")
_HEAD = ("head", "head_size", "tie_embeddings")
"""What of a network an algorithm decides where it begins as a checkpoint."""

ROWS = """
WITH counted AS (
    SELECT stage, key, id, count(*) FILTER (side = 'A') AS a, count(*) FILTER (side = 'B') AS b
    FROM ({ids}) GROUP BY stage, key, id
)
SELECT stage, key, sum(a)::BIGINT AS rows_a, sum(b)::BIGINT AS rows_b, count(*) FILTER (b = 0) AS only_a,
    count(*) FILTER (a > 0 AND b > 0) AS common, count(*) FILTER (a = 0) AS only_b
FROM counted GROUP BY stage, key ORDER BY stage, key
"""
_BY_PROMPT = """
WITH numbers AS (
    SELECT side, stage, scorer, sample_id, any_value(prompt_id) AS prompt_id,
        avg(value) FILTER (isfinite(value)) AS value
    FROM ({numbers}) GROUP BY side, stage, scorer, sample_id
), prompts AS (
    SELECT stage, scorer, prompt_id, avg(value) FILTER (side = 'A') AS a, avg(value) FILTER (side = 'B') AS b
    FROM numbers WHERE prompt_id IS NOT NULL GROUP BY stage, scorer, prompt_id
)"""
REWARDS = f"""{_BY_PROMPT}, compared AS (
    SELECT stage, scorer, b - a AS difference, abs(b - a) <= {{tie}} * greatest(1, abs(a), abs(b)) AS tie
    FROM prompts WHERE a IS NOT NULL AND b IS NOT NULL
), both_sides AS (
    SELECT stage, scorer, count(*) AS prompts, avg(difference) AS difference,
        count(*) FILTER (NOT tie AND difference > 0) AS wins_b, count(*) FILTER (tie) AS ties,
        count(*) FILTER (NOT tie AND difference < 0) AS wins_a
    FROM compared GROUP BY stage, scorer
), one_side AS (
    SELECT stage, scorer, count(value) FILTER (side = 'A') AS samples_a, avg(value) FILTER (side = 'A') AS mean_a,
        stddev_pop(value) FILTER (side = 'A') AS spread_a, count(value) FILTER (side = 'B') AS samples_b,
        avg(value) FILTER (side = 'B') AS mean_b, stddev_pop(value) FILTER (side = 'B') AS spread_b
    FROM numbers GROUP BY stage, scorer
)
SELECT *, (wins_b + ties / 2) / prompts AS win_rate_b
FROM one_side LEFT JOIN both_sides USING (stage, scorer) ORDER BY stage, scorer
"""
PAIRED = f"""{_BY_PROMPT}
SELECT stage, scorer, b - a AS difference FROM prompts WHERE a IS NOT NULL AND b IS NOT NULL
ORDER BY stage, scorer, prompt_id
"""
LENGTHS = """
SELECT stage, what, unit, avg(length) FILTER (side = 'A') AS mean_a,
    quantile_disc(length, 0.9) FILTER (side = 'A') AS ninth_decile_a, max(length) FILTER (side = 'A') AS most_a,
    avg(length) FILTER (side = 'B') AS mean_b, quantile_disc(length, 0.9) FILTER (side = 'B') AS ninth_decile_b,
    max(length) FILTER (side = 'B') AS most_b
FROM ({lengths}) GROUP BY stage, what, unit ORDER BY stage, what, unit
"""
FINISH_REASONS = """
WITH ends AS ({ends}), counted AS (
    SELECT stage, what, finish_reason, count(*) FILTER (side = 'A') AS a, count(*) FILTER (side = 'B') AS b
    FROM ends GROUP BY stage, what, finish_reason
)
SELECT stage, what, finish_reason, a AS rows_a, a / nullif(sum(a) OVER (PARTITION BY stage, what), 0) AS share_a,
    b AS rows_b, b / nullif(sum(b) OVER (PARTITION BY stage, what), 0) AS share_b
FROM counted ORDER BY stage, what, finish_reason
"""
_EMPTY: Mapping[str, str] = {
    "ids": "NULL::VARCHAR AS key, NULL::VARCHAR AS id",
    "numbers": "NULL::VARCHAR AS scorer, NULL::VARCHAR AS sample_id, NULL::VARCHAR AS prompt_id, NULL::DOUBLE AS value",
    "lengths": "NULL::VARCHAR AS what, NULL::VARCHAR AS unit, NULL::BIGINT AS length",
    "ends": "NULL::VARCHAR AS what, NULL::VARCHAR AS finish_reason",
}
"""The columns of each relation, beside `side` and `stage`."""


@dataclass(frozen=True)
class Difference:
    """What two sides differ in: tables of numbers, and the settings and stages that are not the same."""

    rows: pa.Table
    rewards: pa.Table
    lengths: pa.Table
    finish_reasons: pa.Table
    settings: list[dict[str, Any]]
    stages: list[dict[str, Any]]


def difference(lineage: Lineage, process: SqlProcess, a: Named, b: Named, last: Collection[str]) -> Difference:
    """`a` against `b`. `DataError` where files are not what their manifests say."""
    sides = [_Side(lineage, side, one, last) for side, one in (("A", a), ("B", b))]
    shared = sides[0].keys & sides[1].keys

    def answered(question: str, relation: str) -> pa.Table:
        parts = [part for side in sides for part in side.relation(relation, shared)]
        nothing = f"SELECT NULL::VARCHAR AS side, NULL::VARCHAR AS stage, {_EMPTY[relation]} WHERE false"
        text = "\nUNION ALL BY NAME\n".join([nothing, *parts])
        return asked(process, question.format(**{relation: text}, tie=TIED_WITHIN))

    return Difference(
        rows=answered(ROWS, "ids"),
        rewards=with_intervals(answered(REWARDS, "numbers"), answered(PAIRED, "numbers")),
        lengths=answered(LENGTHS, "lengths"),
        finish_reasons=answered(FINISH_REASONS, "ends"),
        settings=[*_settings(lineage, a, b)],
        stages=[*_stages(a, b)],
    )


class _Side:
    """One side as relations: `stage` and the columns of `_EMPTY`."""

    def __init__(self, lineage: Lineage, side: str, what: Named, last: Collection[str]) -> None:
        self.what, self._lineage = what, lineage
        self._head = f"SELECT {literal(side)} AS side, "
        self._schema = "main" if all(one.place in last for one in what.entries) else "everything"
        [first, *_] = what.entries
        given = {"dataset": [first], "checkpoint": lineage.inputs(first, "data")[:1]}
        self._data = next(iter(given.get(what.kind, ())), None)
        self._data_stage = literal("trained on" if what.kind == "checkpoint" else "")
        self._columns = {
            one.name: one.kind for one in (() if self._data is None else self._data.made.columns) if one.stored
        }

    @property
    def keys(self) -> set[str]:
        """By what rows of the data can be known: their key, and the ids of what they are of."""
        key = () if self._data is None else self._data.made.row_key
        return {json.dumps(key)} - {"[]"} | {json.dumps([one]) for one in ENTITIES if one in self._columns}

    def relation(self, relation: str, shared: Collection[str]) -> Iterator[str]:
        """The SELECTs that make up one relation of this side."""
        of_data = {
            "ids": self._ids(shared),
            "numbers": self._numbers(),
            "lengths": self._lengths(),
            "ends": self._ends(),
        }
        if self._data is not None and self._data.rows:
            files = source(
                [f"{self._data.root}/{self._data.place}/{path}" for path, rows, _ in self._data.made.files if rows]
            )
            yield from (
                f"{self._head}{self._data_stage} AS stage, {columns} FROM {files}" for columns in of_data[relation]
            )
            if relation == "numbers" and "sample_id" in self._columns:
                yield self._measured(files)
        if self.what.kind != "dataset":
            yield from self._viewed(relation)

    def _ids(self, shared: Collection[str]) -> Iterator[str]:
        for key in sorted(shared):
            names = json.loads(key)
            value = f"({', '.join(map(name, names))})::VARCHAR" if names[1:] else f"{name(names[0])}::VARCHAR"
            yield f"{literal(', '.join(names))} AS key, {value} AS id"

    def _numbers(self) -> Iterator[str]:
        for column in _PAIR_REWARDS:
            if "pair_id" in self._columns and column in self._columns:
                prompt = "prompt_id" if "prompt_id" in self._columns else "NULL::VARCHAR AS prompt_id"
                yield f"{literal(column)} AS scorer, pair_id AS sample_id, {prompt}, {name(column)} AS value"

    def _lengths(self) -> Iterator[str]:
        for column, kind in self._columns.items():
            if column.endswith("_ids") and kind in ("INTEGER[]", "BIGINT[]"):
                yield f"{literal(column)} AS what, 'tokens' AS unit, len({name(column)}) AS length"
            elif column in _TEXTS and kind == "VARCHAR":
                yield f"{literal(column)} AS what, 'characters' AS unit, length({name(column)}) AS length"

    def _ends(self) -> Iterator[str]:
        for column in self._columns:
            if column.endswith("finish_reason"):
                what = column.removesuffix("finish_reason").strip("_") or "response"
                yield f"{literal(what)} AS what, {name(column)} AS finish_reason"

    def _measured(self, files: str) -> str:
        """What was measured of the samples of the data: on the way to it, or in the last run behind it."""
        where = _one_of(self._judged())
        ids = f"sample_id IN (SELECT sample_id FROM {files})"
        return (
            f"{self._head}{self._data_stage} AS stage, scorer, sample_id, prompt_id, value FROM everything.rewards "
            f"WHERE {where} AND {ids}"
        )

    def _judged(self) -> Iterator[Entry]:
        """The data, what it was made of, and what was made of it: of each name one variant."""
        entries, direct = self._lineage.entries, self._lineage.direct
        start = next(index for index, one in enumerate(entries) if one is self._data)
        below: dict[int, list[int]] = {}
        for index, parents in enumerate(direct):
            for parent in parents:
                below.setdefault(parent, []).append(index)
        above = _reached(start, direct.__getitem__)
        behind = {one for at in above for one in _reached(at, lambda index: below.get(index, []))}
        names: dict[str, Entry] = {}
        for index in (*sorted(above), *sorted(behind - above, key=lambda one: entries[one].finished, reverse=True)):
            names.setdefault(entries[index].name, entries[index])
        yield from names.values()

    def _viewed(self, relation: str) -> Iterator[str]:
        """What the views have of the results of a folder, or of the answers of a checkpoint."""
        where, stage = f"policy = {literal(self.what.entries[0].place)}", "stage"
        if self.what.kind == "folder":
            where, stage = _one_of(self.what.entries), f"substr(dataset, {len(self.what.name) + 2})"
        head, views = f"{self._head}{stage} AS stage, ", f"FROM {self._schema}"
        chosen = {
            "ids": [
                ("samples", "'sample_id' AS key, sample_id AS id"),
                ("samples", "'prompt_id' AS key, prompt_id AS id"),
            ],
            "numbers": [("rewards", "scorer, sample_id, prompt_id, value")],
            "lengths": [
                ("samples", "'response' AS what, 'tokens' AS unit, len(response_ids) AS length"),
                ("samples", "'response' AS what, 'characters' AS unit, length(response) AS length"),
            ],
            "ends": [("samples", "'response' AS what, finish_reason")],
        }
        if self.what.kind == "folder":
            chosen["ids"].append(("pairs", "'pair_id' AS key, pair_id AS id"))
            chosen["lengths"] += [
                ("pairs", f"'{one}' AS what, 'characters' AS unit, length({one}) AS length")
                for one in ("chosen", "rejected")
            ]
        for view, columns in chosen[relation]:
            yield f"{head}{columns} {views}.{view} WHERE {where}"


def _reached(start: int, following: Any) -> set[int]:
    """`start`, and all that is reached from it."""
    waiting, seen = [start], {start}
    while waiting:
        fresh = {*following(waiting.pop())} - seen
        seen |= fresh
        waiting += fresh
    return seen


def _one_of(entries: Iterator[Entry] | Collection[Entry]) -> str:
    """The condition under which a row of a view is of one of `entries`."""
    pairs = ", ".join(f"({literal(one.name)}, {literal(one.variant or '')})" for one in entries)
    return f"(dataset, coalesce(variant, '')) IN ({pairs})"


def _settings(lineage: Lineage, a: Named, b: Named) -> Iterator[dict[str, Any]]:
    """The settings of stages of both sides that are not the same, as manifests have them or they came down."""
    for stage, *both in _same_stages(a, b):
        one, other = (dict(_flat(*side)) for side in zip(both, _params(lineage, both), strict=True))
        for setting in dict.fromkeys([*one, *other]):
            if json.dumps(one.get(setting), sort_keys=True) != json.dumps(other.get(setting), sort_keys=True):
                yield {"stage": stage, "setting": setting, "a": one.get(setting), "b": other.get(setting)}


def _same_stages(a: Named, b: Named) -> Iterator[tuple[str, Entry, Entry]]:
    if a.kind != "folder" and b.kind != "folder":
        yield "", a.entries[0], b.entries[0]
        return
    others = {b.relative(one): one for one in b.entries}
    for one in a.entries:
        if a.relative(one) in others and not one.place.endswith(RECORDS_END):
            yield a.relative(one), one, others[a.relative(one)]


def _params(lineage: Lineage, both: Sequence[Entry]) -> list[dict[str, Any]]:
    """The settings of two results. A training that begins as a checkpoint has the network of that, but for the head,
    which is its algorithm's; where a checkpoint that has it is gone, no network is held against another.
    """
    params = [dict(entry.made.params) for entry in both]
    if any("model" in one and one["model"] is None for one in params):
        models = [_model(lineage, entry) for entry in both]
        for one, model in zip(params, models, strict=True):
            one["model"] = {name: value for name, value in model.items() if name not in _HEAD} if all(models) else None
    return params


def _model(lineage: Lineage, entry: Entry) -> Mapping[str, Any]:
    """The network that a training was given, or that of the checkpoint which it began as; empty where that is gone."""
    waiting, seen = [entry], set[str]()
    while waiting:
        one = waiting.pop()
        model = one.made.params.get("model")
        if isinstance(model, Mapping):
            return model
        waiting += [up for up in lineage.inputs(one, "init") if up.place not in seen]
        seen.add(one.place)
    return {}


def _flat(entry: Entry, params: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Operation, seed and settings, the inner ones behind a dot."""
    yield from (("operation", entry.made.op), ("seed", entry.made.seed))
    waiting: list[tuple[str, Any]] = [*reversed([*params.items()])]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Mapping) and value:
            waiting += [(f"{path}.{key}", inner) for key, inner in reversed([*value.items()])]
        else:
            yield path, value


def _stages(a: Named, b: Named) -> Iterator[dict[str, Any]]:
    """Of folders the stages that one side alone has, or with another number of rows; of datasets their rows."""
    one, other = ({side.relative(entry): entry for entry in side.entries} for side in (a, b))
    if a.kind != "folder" and b.kind != "folder":
        one, other = {"": a.entries[0]}, {"": b.entries[0]}
    for stage in sorted({*one, *other}):
        rows = [None if entry is None else entry.rows for entry in (one.get(stage), other.get(stage))]
        if rows[0] != rows[1]:
            yield {"stage": stage, "rows_a": rows[0], "rows_b": rows[1]}
