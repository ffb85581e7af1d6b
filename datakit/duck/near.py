"""Which rows nearly repeat one that stays, of rows that meet in buckets: greedily, in the order of their places.

A row stays unless it is as alike as asked to a row before it that stays and that it shares a bucket with. So no row
goes for one that goes itself, and no chain of small steps drops what is unlike all that stay.

Rounds find this without comparing all with all: a row that is the first of every bucket that it is in stays; what meets
it there is compared with it and goes where it is alike; both leave their buckets. A bucket of m copies costs m
comparisons. Where few rows are first, as in texts that have a template in common, the next rows by place are compared
with each other and with all that meet them, at once (`Facing`), so that rounds stay few: such texts are compared all
with all, because each of them may be like any other. DuckDB holds the buckets, out of core.

    S rows that others are compared with    O others    B buckets of a row
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.duck.session import Session

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_PAIRS = 1 << 16
_MOST_ROWS = 1024
"""Rows by place that are compared with each other, and with as many others, at once."""
_GONE = pa.schema([("n", pa.int64()), ("stays", pa.int64()), ("similarity", pa.float64())])
_LIVE = """
    CREATE TABLE live AS
    WITH members AS (SELECT n, unnest(buckets) AS bucket FROM rows),
        shared AS (SELECT bucket FROM members GROUP BY bucket HAVING count(*) > 1)
    SELECT DISTINCT place, n, bucket FROM members JOIN shared USING (bucket) JOIN places USING (n)
"""
_LEADS = """
    CREATE OR REPLACE TABLE leads AS SELECT bucket, min(place) AS lead FROM live GROUP BY bucket
"""
_FIRSTS = """
    CREATE OR REPLACE TABLE firsts AS
    SELECT place, any_value(n) AS n FROM live JOIN leads USING (bucket) GROUP BY place HAVING bool_and(place = lead)
"""
_MET = """
    WITH standing AS (SELECT live.* FROM live SEMI JOIN firsts USING (place)),
        others AS (SELECT live.* FROM live ANTI JOIN firsts USING (place))
    SELECT DISTINCT others.n AS n, standing.n AS stays FROM others JOIN standing USING (bucket)
    WHERE others.place > standing.place ORDER BY stays, n
"""
_NEXT = "CREATE OR REPLACE TABLE firsts AS SELECT DISTINCT place, n FROM live ORDER BY place LIMIT {}"
_STANDING = "SELECT place, n, buckets FROM firsts JOIN rows USING (n) ORDER BY place"
_GOES = "DELETE FROM firsts WHERE n IN (SELECT unnest(?))"
_OTHERS = """
    WITH met AS (SELECT DISTINCT bucket FROM live SEMI JOIN firsts USING (place)),
        others AS (SELECT DISTINCT place, n FROM live SEMI JOIN met USING (bucket) ANTI JOIN firsts USING (place))
    SELECT place, n, buckets FROM others JOIN rows USING (n)
"""
_CLOSEST = """
    INSERT INTO gone SELECT alike.* FROM alike JOIN places ON alike.stays = places.n
    QUALIFY row_number() OVER (PARTITION BY alike.n ORDER BY similarity DESC, place) = 1
"""
_REST = """
    CREATE OR REPLACE TABLE live AS SELECT live.* FROM live
    ANTI JOIN firsts USING (place) ANTI JOIN alike USING (n)
"""


class Facing(Protocol):
    """Some rows that others are held against."""

    def similarities(self, others: Ints) -> Floats:
        """Of each row with each of the `others`, by their numbers [S, O]."""


class Sets(Protocol):
    """What is compared of the rows, by their numbers."""

    def similarities(self, one: Ints, other: Ints) -> Floats:
        """Of the two rows of each pair [P]."""

    def facing(self, rows: Ints) -> Facing:
        """These rows, for all of them to be compared with all of others."""


def near_repeats(session: Session, least: float, sets: Sets) -> None:
    """Make the table `gone` (n, stays, similarity): each row that goes, the row that stays and is most like it.

    `session` has `rows` (n, buckets: a list of B numbers, or of none) and `places` (n, place: in which order rows have
    the right to stay). Rows whose similarity is `least` or more are alike.
    """
    session.load("gone", _GONE, [])
    session.rows(_LIVE)
    while rows := session.rows("SELECT count(DISTINCT n) FROM live")[0][0]:
        session.rows(_LEADS)
        session.rows(_FIRSTS)
        few = session.rows("SELECT count(*) FROM firsts")[0][0] < min(_MOST_ROWS, rows)
        alike = [*(_alike_to_next if few else _alike_to_firsts)(session, least, sets)]
        session.rows("DROP TABLE IF EXISTS alike")
        session.load("alike", _GONE, alike)
        session.rows(_CLOSEST)
        session.rows(_REST)


def _alike_to_firsts(session: Session, least: float, sets: Sets) -> Iterator[pa.RecordBatch]:
    """The pairs of one of `firsts` and a row behind it that are alike."""
    for met in session.batches(_MET, _PAIRS):
        row, stays = (np.asarray(met[name], np.int64) for name in ("n", "stays"))
        yield _pairs(row, stays, sets.similarities(row, stays), least)


def _alike_to_next(session: Session, least: float, sets: Sets) -> Iterator[pa.RecordBatch]:
    """Make the next rows by place `firsts`, without those that are alike to one of them before; each row behind them
    that is alike to some, with the one that is most like it.
    """
    session.rows(_NEXT.format(_MOST_ROWS))
    standing = session.table(_STANDING)
    facing = sets.facing(np.asarray(standing["n"]))
    gone = np.zeros(len(standing), bool)
    for at, alike in enumerate(_met(standing, standing, facing.similarities(np.asarray(standing["n"])), least) > 0):
        if not gone[at]:
            gone |= alike
    session.rows(_GOES, [standing["n"].filter(pa.array(gone)).to_pylist()])
    for batch in session.batches(_OTHERS, _MOST_ROWS):
        if not batch.num_rows:
            continue
        others = pa.Table.from_batches([batch])
        row = np.asarray(others["n"])
        similarities = _met(standing, others, facing.similarities(row), least)
        similarities[gone] = 0
        closest = similarities.argmax(axis=0)
        yield _pairs(row, np.asarray(standing["n"])[closest], similarities.max(axis=0), least)


def _met(standing: pa.Table, others: pa.Table, similarities: Floats, least: float) -> Floats:
    """The `similarities` [S, O] of pairs that are alike and share a bucket, the other behind; 0 of all other pairs."""
    places = [np.asarray(table["place"]) for table in (standing, others)]
    buckets = [_buckets(table) for table in (standing, others)]
    similarities[(similarities < least) | (places[0][:, None] >= places[1])] = 0
    for low in range(0, len(standing), step := max(_PAIRS // max(len(others), 1), 1)):
        one, other = np.nonzero(similarities[low : low + step])
        apart = (buckets[0][low + one] != buckets[1][other]).all(axis=1)
        similarities[low + one[apart], other[apart]] = 0
    return similarities


def _buckets(rows: pa.Table) -> npt.NDArray[np.uint64]:
    """The buckets of rows that all have some [S, B]."""
    return np.asarray(rows["buckets"].combine_chunks().flatten()).reshape(len(rows), -1)


def _pairs(row: Ints, stays: Ints, similarity: Floats, least: float) -> pa.RecordBatch:
    """The pairs that are alike."""
    near = similarity >= least
    return pa.record_batch([pa.array(values[near]) for values in (row, stays, similarity)], schema=_GONE)
