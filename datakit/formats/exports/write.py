"""A dataset written as a file of another toolkit: streamed, whole or not at all, over nothing that is there.

What the format has no place for is counted: columns by name, and rows by reason, which lie in `<file>.rejected.jsonl`
with their number in the dataset and their key.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import Faults, any_turn, flat, messages, starts, turn_column
from datakit.columns.measurement import NOT_FINITE
from datakit.formats.exports import EXPORTS
from datakit.formats.exports.export import Export, not_finite
from datakit.formats.exports.json_columns import TEXT, is_plain, joined, one_line, record, value
from schemas import MESSAGES, Dataset, Schema
from schemas.card import dataset_card
from schemas.errors import ConfigError, ConflictError, DataError, QuiverError, counted, printable
from schemas.manifest import MANIFEST
from schemas.nearest import nearest
from schemas.store.commit import begin_attempt
from schemas.store.opening import open_store
from schemas.store.storage import Store, normal, shown

_ROWS = 8192
_MADE_AGAIN = ("prompt_id", "chat_id", "sample_id", "pair_id")
_WEIGHTLESS = "trl."


@dataclass(frozen=True)
class Written:
    """What was written where, the columns that were not (with the rows that have a value there), and the rows."""

    path: str
    export: Export
    rows: int
    left_out: dict[str, int]
    rejected: dict[str, int]
    weighted: int = 0

    def __str__(self) -> str:
        texts = f" --dialogue {self.export.dialogue}" * (self.export.dialogue != "plain")
        back = f"--format {self.export.back}{texts}"
        lines = [f"{counted(self.rows, 'row')} in {shown(self.path)}, {self.export.name}: {self.export.meaning}"]
        if self.left_out:
            listed = ", ".join(f"{printable(name)} ({counted(count, 'row')})" for name, count in self.left_out.items())
            lines.append(f"not written: {listed}; ids are made again of the same content by Import {back}")
        if self.weighted:
            rows = counted(self.weighted, "row")
            lines.append(f"turns of weight 0 in {rows} carry `weight`, which TRL does not read: it learns them")
        if self.rejected:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.items())
            rows = counted(sum(self.rejected.values()), "row")
            lines.append(f"{rows} set aside ({reasons}) in {shown(self.path)}.rejected.jsonl")
        return "\n".join(lines)


def export(dataset: Dataset, to: str, path: str, keep: Sequence[str] = (), max_rejected: int = 0) -> Written:
    """Write `dataset` in the format `to` (a name of `EXPORTS`, or a toolkit's) to the file `path`.

    `keep` are columns of texts, numbers, truth values or dates that become keys of their own. `ConfigError` for what
    there is not; `ConflictError` where there is a file already; `DataError` where more than `max_rejected` rows do not
    fit.
    """
    form = export_for(to, dataset.schema)
    columns = form.columns(dataset.schema)
    _check_kept(form, dataset.schema, columns, keep)
    _check_place(path)
    store, place = open_store(path)
    if store.size(place) is not None or (not max_rejected and store.size(_beside(place)) is not None):
        raise _taken(path)
    folder = place.rpartition("/")[0]
    fresh = _missing_folders(normal(path))
    attempt = begin_attempt(normal(path).rpartition("/")[0] or "/")
    try:
        scratch = store.join(store.join(folder, attempt), "rows")
        written = _streamed(dataset, form, columns, keep, store, (path, scratch))
        if sum(written.rejected.values()) > max_rejected:
            raise _unfit(written, max_rejected)
        _write_card(dataset, written, store, place, scratch)
        with store.exclusive(folder or "/"):
            if store.size(place) is not None or _is_anothers(store, place, scratch):
                raise _taken(path)
            if written.rejected:
                store.move(_beside(scratch), _beside(place))
            store.move(scratch, place)
            store.move(_card_of(scratch), _card_of(place))
            store.sync(folder or "/")
    finally:
        with suppress(QuiverError, OSError):
            store.remove_tree(store.join(folder, attempt))
            for above in fresh:  # where nothing was written, and nobody else wrote there, they are empty
                store.remove_empty(above)
    return written


def _write_card(dataset: Dataset, written: Written, store: Store, place: str, scratch: str) -> None:
    """Write what will be `<file>.card.md` beside the rows, over one that an earlier export of that name left."""
    name = place.rpartition("/")[2]
    text = dataset_card(name, written.rows, dataset.schema, dataset.manifest, dataset.url, {"pretty_name": name})
    sink = store.create(_card_of(scratch))
    sink.write(text.encode())
    sink.finish()


def _card_of(place: str) -> str:
    return f"{place}.card.md"


def _missing_folders(path: str) -> list[str]:
    """The folders above a local `path` that there are not yet, the innermost first."""
    above = () if "://" in path else Path(path).parents
    return [str(folder) for folder in above if not os.path.lexists(folder)]


def _check_place(path: str) -> None:
    """`ConfigError` for a local path that can be no new file: a folder, a pipe, a device, or inside a dataset."""
    place = normal(path)
    if "://" in place:
        return
    what = "a link" if os.path.islink(place) else "a folder" if os.path.isdir(place) else "no regular file"
    if not os.path.lexists(place) or (os.path.isfile(place) and not os.path.islink(place)):
        holder = next((folder for folder in Path(place).parents if (folder / MANIFEST).exists()), None)
        if holder is None:
            return
        what = f"inside the published folder {shown(holder)}"
    raise ConfigError(
        "not-a-file",
        f"--out {shown(path)} is {what}",
        expected="a file that is not there yet, in a folder of your own",
        found=what,
        kept="nothing was started",
        next="--out rows.jsonl",
    )


def _is_anothers(store: Store, place: str, scratch: str) -> bool:
    """Whether rejected rows lie beside `place` that are not those of this export: a run that was killed between its two
    moves has left the same.
    """
    there, ours = _beside(place), _beside(scratch)
    if store.size(there) is None:
        return False
    if not store.size(ours) or store.size(there) != store.size(ours):
        return True
    with store.open(there) as one, store.open(ours) as other:
        while block := one.read(1 << 20):
            if block != other.read(len(block)):
                return True
    return False


def export_for(to: str, schema: Schema) -> Export:
    """The format of that name, or the first of a toolkit's that rows of `schema` can be written in."""
    name = to.replace("-", "_")
    forms = [form for form in EXPORTS.values() if name in (form.name, form.name.partition(".")[0])]
    if not forms:
        toolkits = [form.partition(".")[0] for form in EXPORTS]
        raise ConfigError(
            "unknown-format",
            f"there is no format {printable(to)} to export to",
            expected=", ".join([*dict.fromkeys(toolkits), *EXPORTS]),
            kept="nothing was started",
            next="quiver export",
            wrong=(to,),
            nearest=nearest(name, [*EXPORTS, *toolkits]),
        )
    fitting = next((form for form in forms if form.columns(schema)), None)
    if fitting is None:
        others = [form.name for form in EXPORTS.values() if form.columns(schema)]
        raise ConfigError(
            "wrong-rows",
            f"rows of {printable(schema.name)} cannot be written as {printable(to)}",
            expected=" | ".join(" + ".join(one) for form in forms for one in form.takes),
            found=printable(", ".join(schema.names), 200),
            kept="nothing was started",
            next=f"--to {others[0]}" if others else "quiver export",
        )
    return fitting


def _streamed(
    dataset: Dataset, form: Export, columns: Sequence[str], keep: Sequence[str], store: Store, places: tuple[str, str]
) -> Written:
    """Write all rows below the scratch name, and the rejected ones beside them."""
    path, scratch = places
    lost = [column for column in dataset.schema.columns if column.name not in {*columns, *keep, *_MADE_AGAIN}]
    nullable = [column.name for column in lost if column.nullable and not pa.types.is_nested(column.type)]
    counts = Counter({column.name: 0 for column in lost})
    reasons: Counter[str] = Counter()
    rows = weighted = first = 0
    sink, aside = store.create(scratch), store.create(_beside(scratch))
    try:
        for stored in _batches(dataset, [*dict.fromkeys([*columns, *keep, *nullable, *dataset.schema.key])]):
            batch, unsound = _one_line(stored)
            lines = form.lines(batch)
            text = _with_kept(lines.text, batch, keep)
            unwritable = (not_finite(batch, [*columns, *keep]), NOT_FINITE)
            why = _reasons([*unsound, unwritable, *lines.faults], batch.num_rows)
            good = np.array([not reason for reason in why], bool)
            sink.write(_bytes(text.filter(pa.array(good))))
            if not good.all():
                aside.write(_bytes(_set_aside(batch, why, first, dataset.schema.key).filter(pa.array(~good))))
            reasons.update(reason for reason in why if reason)
            counts.update(
                {c.name: batch.num_rows - (batch[c.name].null_count if c.name in nullable else 0) for c in lost}
            )
            rows, first = rows + int(good.sum()), first + batch.num_rows
            weighted += _silent(batch, good) if form.name.startswith(_WEIGHTLESS) else 0
        sink.finish()
        aside.finish()
    except BaseException:
        sink.abort()
        aside.abort()
        raise
    left_out = {name: count for name, count in counts.items() if count}
    return Written(path, form, rows, left_out, dict(reasons.most_common()), weighted)


def _batches(dataset: Dataset, columns: list[str]) -> Iterator[pa.Table]:
    for shard in range(len(dataset.shards)):
        for batch in dataset.batches(shard, _ROWS, columns):
            yield batch.combine_chunks()


def _one_line(batch: pa.Table) -> tuple[pa.Table, Faults]:
    """The rows with their tools and tool calls, which are JSON, in one line each; and those where they are none."""
    wrong = np.zeros(batch.num_rows, bool)
    for name in {"tools", "messages"} & set(batch.column_names):
        column = flat(batch[name])
        if column.type == pa.string():
            texts, bad = one_line(column)
        elif column.type == MESSAGES:
            texts, bad = _calls_in_one_line(column)
        else:
            continue
        wrong |= bad
        batch = batch.set_column(batch.column_names.index(name), name, texts)
    return batch, [(wrong, "bad-json")]


def _calls_in_one_line(turns: pa.Array) -> tuple[pa.Array, np.ndarray]:
    inner, offsets = turns.flatten(), starts(turns)
    calls, bad = one_line(inner.field("tool_calls"))
    columns = {field.name: calls if field.name == "tool_calls" else inner.field(field.name) for field in inner.type}
    return messages(offsets, turn_column(columns.pop("role"), columns.pop("content"), **columns)), any_turn(
        offsets, bad
    )


def _reasons(faults: Sequence[tuple[np.ndarray, str]], count: int) -> list[str]:
    """The first reason of each row; empty where it is written."""
    why = np.full(count, "", object)
    for mask, reason in reversed(faults):
        why[mask] = reason
    texts: list[str] = why.tolist()
    return texts


def _with_kept(text: pa.Array, batch: pa.Table, keep: Sequence[str]) -> pa.Array:
    """The lines with more keys in front of each closing brace."""
    if not keep:
        return text
    more = record({name: pc.fill_null(value(batch[name]), "null") for name in keep})
    return joined(pc.utf8_slice_codeunits(text, 0, -1), ",", pc.utf8_slice_codeunits(more, 1))


def _set_aside(batch: pa.Table, why: Sequence[str], first: int, key: Sequence[str]) -> pa.Array:
    numbers = pa.array(np.arange(first, first + batch.num_rows))
    return record(
        {"row": value(numbers), "reason": value(pa.array(why, pa.string())), **{k: value(batch[k]) for k in key}}
    )


def _silent(batch: pa.Table, good: np.ndarray) -> int:
    """Rows among those written with an assistant's turn that is not to be learnt."""
    turns = batch["messages"].combine_chunks().filter(pa.array(good))
    inner = turns.flatten()
    silent = pc.and_(pc.equal(inner.field("weight"), 0), pc.equal(inner.field("role"), "assistant"))
    return len(pc.unique(pc.list_parent_indices(turns).filter(pc.fill_null(silent, False))))


def _bytes(lines: pa.Array) -> bytes:
    whole = pc.binary_join(pa.LargeListArray.from_arrays(pa.array([0, len(lines)]), lines), pa.scalar("\n", TEXT))
    return f"{whole[0].as_py()}\n".encode() if len(lines) else b""


def _beside(place: str) -> str:
    return f"{place}.rejected.jsonl"


def _check_kept(form: Export, schema: Schema, columns: Sequence[str], keep: Sequence[str]) -> None:
    own = set(json.loads(form.lines(_one_row(schema, columns)).text[0].as_py().split("\n")[0])) if keep else set()
    for name in keep:
        plain = name in schema and is_plain(schema[name].type)
        if plain and name not in own and keep.count(name) == 1 and form.back != "comparisons":
            continue
        why = "is named twice" if keep.count(name) > 1 else f"cannot become a key of {form.name}"
        others = [known for known in schema.names if known not in keep]
        raise ConfigError(
            "bad-setting",
            f"keep: {printable(name)} {why}",
            expected="columns of texts, numbers, truth values or dates, under names that the format does not use",
            kept="nothing was started",
            wrong=(name,),
            nearest="" if name in schema else nearest(name, others),
        )


def _one_row(schema: Schema, columns: Sequence[str]) -> pa.Table:
    """A row of `columns`, for the keys of its line."""
    example = {
        "messages": [{"role": "user", "content": "x"}], "tools": "[]", "desirable": True, "attributes": [1.0],
        "labels": None, "turn_names": None, "chosen_reward": 1.0, "rejected_reward": 0.0,
    }  # fmt: skip
    return pa.table({name: pa.array([example.get(name, "x")], schema[name].type) for name in columns})


def free_name(path: str) -> str:
    """`path`, or where there is a file already the first of `rows-2.jsonl`, `rows-3.jsonl`, ... where there is none."""
    folder, slash, name = path.rpartition("/")
    stem, dot, ending = name.partition(".")
    numbered = (f"{folder}{slash}{stem}-{number}{dot}{ending}" for number in count(2))
    return next(one for one in chain([path], numbered) if not _is_there(one))


def _is_there(path: str) -> bool:
    store, place = open_store(path)
    return store.size(place) is not None or store.size(_beside(place)) is not None


def _taken(path: str) -> ConflictError:
    return ConflictError(
        "file-exists",
        f"there is a file at {shown(path)} already, or rejected rows beside it",
        expected="a new name: an export overwrites nothing",
        where=shown(path),
        kept="what is there",
        next=f"--out {shlex.quote(free_name(path))}",
    )


def _unfit(written: Written, most: int) -> DataError:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in written.rejected.items())
    total = sum(written.rejected.values())
    return DataError(
        "rows-do-not-fit",
        f"{total:,} of {total + written.rows:,} rows have no place in {written.export.name}: {reasons}",
        expected=f"at most {most}",
        kept="nothing was written",
        next=f"--max-rejected {total}",
    )
