"""The views over rows: samples, rewards, rejected rows, pairs, what was trained on, what training saw.

A row counts once: in the dataset that brought it in, not in those that were made of it on the way.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from datakit.catalog.lineage import Lineage
from datakit.catalog.made import ColumnText
from datakit.catalog.packs import unpacked
from datakit.catalog.rollouts import Rollout
from datakit.catalog.sql_text import kind, name
from datakit.catalog.stacked import Field, Part, View, fields_of, stacked
from datakit.catalog.trained_on import ONLINE
from datakit.catalog.workspace import Entry
from datakit.judging.reading import NO_VERDICT
from datakit.op import Op
from datakit.run.chain import PaidChain
from schemas.rows.completions import COMPLETIONS
from schemas.rows.preferences import PREFERENCES
from schemas.rows.prompts import PROMPTS
from schemas.rows.records import RECORDS
from schemas.rows.reports import REPORTS
from schemas.rows.samples import SAMPLES
from schemas.rows.tokens import TOKENS
from schemas.run_layout import RECORDS_END
from schemas.schema import Schema

_WHOLE = {"prompts": PROMPTS, "completions": COMPLETIONS, "samples": SAMPLES, "pairs": PREFERENCES, "reports": REPORTS}
_MEANINGS = {
    "prompts": "questions, each where it was read or made",
    "completions": "questions and answers that came from outside or from a rule, each where it was read or made",
    "samples": "answers of policies: one row a sample, whatever was made of it later; those of online runs by step",
    "pairs": "preferences: one row a pair, where it was read or made",
    "reports": "figures that stages measured, one a row",
    "rewards": "numbers that say how good answers are: one row for each sample and scorer",
    "verdicts": "what judges said of answers and pairs: one row for each row that was judged",
    "rejected": "rows that operations set aside, with the reason",
    "training_rows": "rows that checkpoints learnt from, in packs too: each once for each of them; none of online runs",
    "records": "what training saw: one row for every time a row was trained on, in a pack or not",
}
_REWARD_FIELDS = (
    Field("sample_id", "VARCHAR", "the sample", ""),
    Field("prompt_id", "VARCHAR", "the question it answers", ""),
    Field("value", "DOUBLE", "the number", ""),
    Field("scorer", "VARCHAR", "which number it is: the name of the column", ""),
    Field("model", "VARCHAR", "the checkpoint that gave it; null for a rule or a function", ""),
)
_VERDICT_FIELDS = (
    Field("preferred", "VARCHAR", "which of the answers is better, by the name of its column, or tie", ""),
    Field("score", "DOUBLE", "the score of an answer that was judged alone", ""),
    Field("wins", "DOUBLE", "share of votes for the first of two answers; a tie is half", ""),
    Field("consistent", "DOUBLE", "share of votes that do not change with the order of the answers", ""),
    Field("first", "DOUBLE", "share of replies for the answer that was shown first", ""),
    *(Field(why, "BIGINT", f"replies without a verdict: {why}", "") for why in NO_VERDICT),
    Field("judge", "VARCHAR", "the model that judged", ""),
)
_ASKED = {"label.reward": "scorer", "label.judge": "judge"}
"""Operations whose numbers a model gave, and what that was asked to be."""
_REJECTED_FIELDS = (
    Field("reason", "VARCHAR", "why the row was set aside", ""),
    Field("value", "DOUBLE", "what was measured of it", ""),
    Field("threshold", "VARCHAR", "what that was held against", ""),
)
_ROW_KEYS = (
    Field("sample_id", "VARCHAR", "the row in the data, where its key is called so", ""),
    Field("pair_id", "VARCHAR", "the row in the data, where its key is called so", ""),
)
_STEP = Field("step", "INTEGER", "the step of an online run that drew it; else the improve step of the iteration", "")
_DRAWN = Field(
    "drawn",
    "VARCHAR",
    "the place of the dataset that brought the sample in, where one did: two recipes may draw one",
    "",
)
_CHECKPOINT = Field("checkpoint", "VARCHAR", "the place of the checkpoint that was trained", "")


@dataclass(frozen=True)
class Chosen:
    """The entries that views are made of, among all that there are, and what online runs drew."""

    entries: Sequence[Entry]
    lineage: Lineage
    rollouts: Sequence[Rollout] = ()


def row_views(chosen: Chosen) -> dict[str, View]:
    """Every view over rows, by name."""
    views = {view: _whole(chosen, view, schema) for view, schema in _WHOLE.items()}
    given: Mapping[str, tuple[Sequence[Field], Callable[[Chosen], Iterator[Part]]]] = {
        "rewards": ((*_REWARD_FIELDS, _STEP, _DRAWN), _rewards),
        "verdicts": ((*_ROW_KEYS, *_VERDICT_FIELDS), _verdicts),
        "rejected": ((*_REJECTED_FIELDS, *_ROW_KEYS, _STEP), _rejected),
        "training_rows": ((_CHECKPOINT, *_fields(TOKENS)), _training_rows),
        "records": ((_CHECKPOINT, *_ROW_KEYS, *_fields(RECORDS)[1:]), _records),
    }
    return views | {view: stacked(base, [*parts(chosen)], _MEANINGS[view]) for view, (base, parts) in given.items()}


def _whole(chosen: Chosen, view: str, schema: Schema) -> View:
    """The rows of a kind where they came to be: in datasets that were not made of chosen ones that have them already.
    What was made of another variant, too, stands with all its rows, those of the chosen ones among them.
    """
    key = None if view == "reports" else schema.key
    parts = [_part(chosen, one) for one in _origins(chosen, schema, key)]
    if view != "samples":
        return stacked(_fields(schema), parts, _MEANINGS[view])
    drawn = (_drawn(chosen, one) for one in chosen.rollouts if one.holds_answers)
    every = [_drawn_in(part, part.entry.place) for part in (*map(_stepped, parts), *drawn)]
    return stacked((*_fields(schema), _STEP, _DRAWN), every, _MEANINGS[view])


def _origins(chosen: Chosen, schema: Schema, key: Sequence[str] | None) -> list[Entry]:
    """The entries of a kind that bring its rows in."""
    entries = [one for one in chosen.entries if _is(one, schema, key)]
    there = {one.place for one in entries}

    def has_them(entry: Entry, below: frozenset[str]) -> bool:
        """Whether all rows of this kind that `entry` was made of stand in chosen datasets."""
        above = [one for one in chosen.lineage.parents(entry) if _is(one, schema, key) and one.place not in below]
        return bool(above) and all(one.place in there or has_them(one, below | {one.place}) for one in above)

    return [one for one in entries if not has_them(one, frozenset((one.place,)))]


def _is(entry: Entry, schema: Schema, key: Sequence[str] | None) -> bool:
    made = entry.made
    return made.kind == "dataset" and made.rows_kind == schema.name and key in (None, made.row_key)


def _fields(schema: Schema) -> tuple[Field, ...]:
    return fields_of([ColumnText(one.name, kind(one.type), one.meaning, kind(one.type)) for one in schema.columns])


def _part(chosen: Chosen, entry: Entry, fields: tuple[Field, ...] | None = None) -> Part:
    files = tuple(f"{entry.root}/{entry.place}/{file}" for file, *_ in entry.made.files)
    return Part(entry, files, fields_of(entry.made.columns) if fields is None else fields, chosen.lineage.labels(entry))


def _stepped(part: Part) -> Part:
    """A part with the step of its iteration; a column of that name stands as `row_step`."""
    fields = tuple(replace(one, name="row_step") if one.name.lower() == "step" else one for one in part.fields)
    return replace(part, fields=fields, labels={"step": part.entry.step, **part.labels})


def _drawn(chosen: Chosen, rollout: Rollout, fields: tuple[Field, ...] | None = None) -> Part:
    """Rows of a step of an online run."""
    return _stepped(replace(_part(chosen, rollout.entry, fields), labels=rollout.labels))


def _drawn_in(part: Part, place: str | None) -> Part:
    """A part with where its samples were drawn; a column of that name stands as `row_drawn`."""
    fields = tuple(replace(one, name="row_drawn") if one.name.lower() == _DRAWN.name else one for one in part.fields)
    return replace(part, fields=fields, labels={**part.labels, _DRAWN.name: place})


def _rewards(chosen: Chosen) -> Iterator[Part]:
    origins = {one.place for one in _origins(chosen, SAMPLES, SAMPLES.key)}
    for part in map(_stepped, _judged(chosen)):
        places = _origins_of(chosen, part.entry, origins)
        yield _drawn_in(part, places.pop() if len(places) == 1 else None)
    for one in chosen.rollouts:
        if one.holds_answers:
            for part in _numbers_of(chosen, one):
                yield _drawn_in(replace(part, labels={**part.labels, **one.labels}), one.entry.place)


def _origins_of(chosen: Chosen, entry: Entry, origins: Collection[str]) -> set[str]:
    """Those of the `origins` that the samples of `entry` came from."""
    matches, waiting, seen = set[str](), [entry], {entry.place}
    while waiting:
        one = waiting.pop()
        if one.place in origins:
            matches.add(one.place)
            continue
        above = [up for up in chosen.lineage.parents(one) if up.place not in seen and _has_samples(up)]
        seen |= {up.place for up in above}
        waiting += above
    return matches


def _has_samples(entry: Entry) -> bool:
    return entry.made.kind == "dataset" and any(one.name == SAMPLES.key[0] for one in entry.made.columns)


def _numbers_of(chosen: Chosen, rollout: Rollout) -> Iterator[Part]:
    """The numbers that were put on the answers of a step, if an operation which `judges` was among those that did."""
    entry = rollout.entry
    for column in entry.made.columns if rollout.ops & _judging() else ():
        if column.kind == "DOUBLE" and column.name not in SAMPLES:
            yield _stepped(_number(chosen, entry, column.name, prompts=True))


def _judged(chosen: Chosen) -> Iterator[Part]:
    """The numbers that an operation which `judges` added to samples, or that came with rows from outside."""
    judging = _judging()
    for entry in chosen.entries:
        columns = {column.name: column for column in entry.made.columns}
        if entry.made.kind != "dataset" or "sample_id" not in columns:
            continue
        above = {column.name for parent in chosen.lineage.parents(entry) for column in parent.made.columns}
        labelled = entry.made.op.startswith("label.")
        judged = entry.made.op in judging
        for column in entry.made.columns:
            new = column.kind == "DOUBLE" and column.name not in above
            if new and (judged if labelled else column.name == "reward" and not above):
                yield _number(chosen, entry, column.name, "prompt_id" in columns)


def _judging() -> frozenset[str]:
    """The names of operations whose numbers say how good an answer is."""
    kinds = vars(importlib.import_module("datakit.label")).values()
    return frozenset(kind.name for kind in kinds if inspect.isclass(kind) and issubclass(kind, Op) and kind.judges)


def _number(chosen: Chosen, entry: Entry, column: str, prompts: bool) -> Part:
    """One column of numbers as rows of `rewards`."""
    values = {"sample_id": '"sample_id"', "prompt_id": '"prompt_id"' if prompts else "NULL::VARCHAR"}
    values["value"] = name(column)
    part = _part(chosen, entry, tuple(replace(one, value=values[one.name]) for one in _REWARD_FIELDS[:3]))
    role = "scorer" if entry.made.op == PaidChain.name else _ASKED.get(entry.made.op)
    model = chosen.lineage.models(entry, role) if role else None
    return replace(part, labels={**part.labels, "scorer": column, "model": model})


def _verdicts(chosen: Chosen) -> Iterator[Part]:
    """What `label.judge` added, under names that do not depend on its `output`."""
    for entry in chosen.entries:
        output = entry.made.params.get("output")
        if entry.made.op != "label.judge" or not isinstance(output, str):
            continue
        columns = {column.name: column.kind for column in entry.made.columns}
        side = columns.get(output) == "VARCHAR"
        places = {one.name: f"{output}_{one.name}" for one in _VERDICT_FIELDS} | {
            one.name: one.name for one in _ROW_KEYS
        }
        places |= {"preferred": output if side else "", "score": "" if side else output}
        fields = tuple(
            replace(one, value=name(place) if (place := places[one.name]) in columns else f"NULL::{one.kind}")
            for one in (*_ROW_KEYS, *_VERDICT_FIELDS[:-1])
        )
        part = _part(chosen, entry, fields)
        yield replace(part, labels={**part.labels, "judge": chosen.lineage.models(entry, "judge")})


def _rejected(chosen: Chosen) -> Iterator[Part]:
    for entry in chosen.entries:
        files = tuple(f"{entry.root}/{entry.place}/{file}" for file, rows, _ in entry.made.rejected if rows)
        if files:
            yield _stepped(Part(entry, files, fields_of(entry.made.rejected_columns), chosen.lineage.labels(entry)))
    for one in chosen.rollouts:
        entry = one.entry
        if files := tuple(f"{entry.root}/{entry.place}/{file}" for file, rows, _ in entry.made.rejected if rows):
            yield _stepped(Part(entry, files, fields_of(entry.made.rejected_columns), one.labels))


def _training_rows(chosen: Chosen) -> Iterator[Part]:
    for entry in chosen.entries:
        if entry.made.kind == "checkpoint" and entry.made.op != ONLINE:  # which has prompts there
            for data in chosen.lineage.inputs(entry, "data"):
                yield _of_checkpoint(unpacked(_part(chosen, data)), entry.place)


def _records(chosen: Chosen) -> Iterator[Part]:
    for entry in chosen.entries:
        if entry.made.kind == "dataset" and entry.made.rows_kind == RECORDS.name:
            yield _of_checkpoint(_part(chosen, entry), entry.place.removesuffix(RECORDS_END))


def _of_checkpoint(part: Part, place: str) -> Part:
    own = tuple(one for one in part.fields if one.name.lower() != _CHECKPOINT.name)
    return replace(part, fields=own, labels={**part.labels, _CHECKPOINT.name: place})
