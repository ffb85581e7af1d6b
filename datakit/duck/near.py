"""Which rows nearly repeat one that stays, of rows that meet in buckets: greedily, in the order of their places.

A row stays unless it is as alike as asked to a row before it that stays and that it shares a bucket with. So no row
goes for one that goes itself, and no chain of small steps drops what is unlike all that stay.

Rounds find this without comparing all with all: a row that is the first of every bucket that it is in stays; what meets
it there is compared with it and goes where it is alike; both leave their buckets. A bucket of m copies costs m
comparisons. Where few rows are first, as in texts that have a template in common, the next rows by place are compared
with each other instead, so that rounds stay few: such texts are compared all with all, because each of them may be like
any other. DuckDB holds the buckets, out of core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.duck.session import Session

Ints = npt.NDArray[np.int64]
Similarities = Callable[[Ints, Ints], npt.NDArray[np.float64]]

_PAIRS = 1 << 16
_MOST_ROWS, _MOST_PAIRS = 1024, 1 << 22
"""Rows by place that are compared with each other at once; pairs of these and of all others that may meet."""
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
_NEXT = "CREATE OR REPLACE TABLE firsts AS SELECT DISTINCT place, n FROM live ORDER BY place LIMIT {}"
_MET = """
    WITH standing AS (SELECT live.* FROM live SEMI JOIN firsts USING (place)),
        others AS (SELECT live.* FROM live ANTI JOIN firsts USING (place))
    SELECT DISTINCT later.n AS n, standing.n AS stays, later.place AS place, standing.place AS before
    FROM {among} AS later JOIN standing USING (bucket) WHERE later.place > standing.place ORDER BY place, before
"""
_GOES = "DELETE FROM firsts WHERE n IN (SELECT unnest(?))"
_CLOSEST = """
    INSERT INTO gone SELECT alike.* FROM alike JOIN places ON alike.stays = places.n
    QUALIFY row_number() OVER (PARTITION BY alike.n ORDER BY similarity DESC, place) = 1
"""
_REST = """
    CREATE OR REPLACE TABLE live AS SELECT live.* FROM live
    ANTI JOIN firsts USING (place) ANTI JOIN alike USING (n)
"""


def near_repeats(session: Session, least: float, similarities: Similarities) -> None:
    """Make the table `gone` (n, stays, similarity): each row that goes, the row that stays and is most like it.

    `session` has `rows` (n, buckets: a list of numbers) and `places` (n, place: in which order rows have the right to
    stay). `similarities` is asked for pairs of rows by their numbers; `least` or more drops a row.
    """
    session.load("gone", _GONE, [])
    session.rows(_LIVE)
    while rows := session.rows("SELECT count(DISTINCT n) FROM live")[0][0]:
        session.rows(_LEADS)
        session.rows(_FIRSTS)
        together = min(_MOST_ROWS, max(_MOST_PAIRS // rows, 1))
        if session.rows("SELECT count(*) FROM firsts")[0][0] < min(together, rows):
            session.rows(_NEXT.format(together))
            gone = _gone_among(_alike(session, "standing", least, similarities))
            session.rows(_GOES, [gone])
        session.rows("DROP TABLE IF EXISTS alike")
        session.load("alike", _GONE, [*_alike(session, "others", least, similarities)])
        session.rows(_CLOSEST)
        session.rows(_REST)


def _alike(session: Session, among: str, least: float, similarities: Similarities) -> Iterator[pa.RecordBatch]:
    """The pairs of a row `among` which and one of `firsts` before it that are alike, by place."""
    for met in session.batches(_MET.format(among=among), _PAIRS):
        row, stays = (np.asarray(met[name], np.int64) for name in ("n", "stays"))
        alike = similarities(row, stays)
        near = alike >= least
        yield pa.record_batch([pa.array(values[near]) for values in (row, stays, alike)], schema=_GONE)


def _gone_among(alike: Iterator[pa.RecordBatch]) -> list[int]:
    """The rows that go, of pairs by place: those alike to one that does not go itself."""
    gone = dict[int, None]()
    for pairs in alike:
        for row, before in zip(pairs["n"].to_pylist(), pairs["stays"].to_pylist(), strict=True):
            if before not in gone:
                gone[row] = None
    return [*gone]
