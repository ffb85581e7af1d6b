"""One output shard: rows checked against the promised schema, rejected rows beside it, both counted; hashes of keys."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.unique import Hashes, hashes
from datakit.op import Op, Result
from datakit.run.shapes import kept_by, row_name
from schemas.dataset import Attempt
from schemas.errors import DataError, counted, printable
from schemas.manifest import File
from schemas.shards import ShardWriter
from schemas.store.storage import shown

_EXAMPLES = 5


@dataclass(frozen=True)
class Done:
    """A finished shard, as a worker reports it; `keys` are the sorted hashes of its rows' keys, none without a key;
    `facts` are those that the operation adds to the manifest, `checks` by role what was found of the models it asked.
    """

    file: File
    rejected: File | None
    reasons: Mapping[str, int]
    counts: Mapping[str, float]
    examples: tuple[str, ...]
    rows_in: int
    keys: Hashes
    details: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)


class Output:
    """The shard being written and its side table, which exists only where a row was rejected."""

    def __init__(self, op: Op, index: int, attempt: Attempt, max_rejected: int | None) -> None:
        self._op, self._index, self._attempt, self._max_rejected = op, index, attempt, max_rejected
        self._writer = attempt.shard(index)
        self._side: ShardWriter | None = None
        self._reasons, self._counts = Counter[str](), Counter[str]()
        self._examples: list[str] = []
        self._details: dict[str, str] = {}
        self._keys: list[Hashes] = []
        self.rows, self._rows_in = 0, 0

    def add(self, result: Result, rows_in: int) -> None:
        """Write what came of `rows_in` input rows; `DataError` if that breaks promise or budget."""
        where = f"output of {self._op.name}, shard {self._index}"
        rows = self._writer.write(result.rows, where)
        if self._attempt.schema.key:
            self._keys.append(hashes(rows, self._attempt.schema.key))
        self.rows += rows.num_rows
        self._rows_in += rows_in
        self._counts.update(result.counts)
        if result.rejected is not None and result.rejected.num_rows:
            self._reject(result.rejected, f"rejected rows of {self._op.name}, shard {self._index}")

    def finish(self) -> Done:
        """Close the shards of kept and of rejected rows; both are durable then."""
        file = self._writer.finish()
        side = self._side.finish() if self._side is not None else None
        reasons, counts = dict(sorted(self._reasons.items())), dict(sorted(self._counts.items()))
        keys: Hashes = np.sort(np.concatenate(self._keys)) if self._keys else np.empty(0, np.uint64)
        return Done(file, side, reasons, counts, tuple(self._examples), self._rows_in, keys, dict(self._details))

    def abort(self) -> None:
        """Drop the shards of kept and of rejected rows."""
        self._writer.abort()
        if self._side is not None:
            self._side.abort()

    def _reject(self, rejected: pa.Table, where: str) -> None:
        if self._side is None:
            self._side = self._attempt.rejected_shard(self._index)
        rows = self._side.write(rejected, where)
        for entry in pc.value_counts(rows["reason"]).to_pylist():
            self._reasons[entry["values"]] += entry["counts"]
        for row in range(min(rows.num_rows, _EXAMPLES - len(self._examples))):
            self._examples.append(row_name(rows, row))
        for reason in set(self._reasons) - set(self._details):
            known = rows["threshold"].filter(pc.equal(rows["reason"], reason)).drop_null()
            if len(known):
                self._details[reason] = known[0].as_py()
        check_budget(self._op, self._reasons, self._rows_in, self._max_rejected, self._examples, self._details)


def _last_resort(op: Op, slug: str, share: float) -> str:
    """What to do about rejected rows for which nothing is known: let their `share` go; where that is every row, mend
    what all of them have in common.
    """
    if share < 1:
        return f"--quiver-max-rejected {share:g}"
    if slug == "template-failed":
        return "choose another chat template, or leave out the turns that this one does not take"
    files = getattr(op, "files", ())
    if files:
        return f"quiver show {shlex.quote(shown(files[0]))}"
    return "change the rows, or the settings of the operation: every row that was looked at fails alike"


def check_budget(
    op: Op,
    reasons: Mapping[str, int],
    rows_in: int,
    max_rejected: int | None,
    examples: list[str],
    details: Mapping[str, str],
) -> None:
    """Raise `DataError`, named after the commonest reason, if more rows were rejected than the run allows; `details`:
    by reason, what the first such row was held against.
    """
    total = sum(reasons.values())
    if max_rejected is None or total <= max_rejected:
        return
    slug = max(sorted(reasons), key=lambda reason: reasons[reason])
    why = {reason: f" ({printable(detail, 300)})" for reason, detail in details.items()}
    counts = ", ".join(f"{reason} {count}{why.get(reason, '')}" for reason, count in sorted(reasons.items()))
    share = math.ceil(100 * total / max(rows_in, total)) / 100
    raise DataError(
        slug,
        f"{op.name} rejected {total} of the first {counted(rows_in, 'row')}: {', '.join(examples[:_EXAMPLES])}",
        expected=f"at most {max_rejected} rejected rows (max_rejected)",
        found=counts,
        kept=kept_by(op),
        next=op.advice(slug, details.get(slug, "")) or _last_resort(op, slug, share),
    )


def check_rejected(
    op: Op, rejected: pa.Table, rows_in: int, examples: Sequence[str] | None = None, share: float = 0.0
) -> None:
    """`check_budget` of one piece of work of `op`, with the rows that it rejected of `rows_in`, whose names are
    `examples`; a `share` of them may go where that is more than `op.max_rejected`.
    """
    reasons, thresholds = rejected["reason"].to_pylist(), rejected["threshold"].to_pylist()
    if examples is None:
        examples = [row_name(rejected, row) for row in range(min(rejected.num_rows, _EXAMPLES))]
    details = {reason: text for reason, text in zip(reversed(reasons), reversed(thresholds), strict=True) if text}
    allowed = None if op.max_rejected is None else max(op.max_rejected, int(share * rows_in))
    check_budget(op, Counter(reasons), rows_in, allowed, [*examples], details)
