"""Which rows nearly repeat one that stays, of rows that meet in buckets: greedily, in the order of their places.

A row stays unless it is as alike as asked to a row before it that stays and that it shares a bucket with. So no row
goes for one that goes itself, and no chain of small steps drops what is unlike all that stay.

Rounds find this without comparing all with all: a row that is the first of every bucket that it is in stays; what it
leads is compared with it and goes where it is alike; both leave their buckets. A bucket of m copies costs m
comparisons. DuckDB holds the buckets, out of core.
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
_GONE = pa.schema([("n", pa.int64()), ("stays", pa.int64()), ("similarity", pa.float64())])
_LIVE = """
    CREATE TABLE live AS
    WITH members AS (SELECT n, unnest(buckets) AS bucket FROM rows),
        shared AS (SELECT bucket FROM members GROUP BY bucket HAVING count(*) > 1)
    SELECT DISTINCT place, n, bucket FROM members JOIN shared USING (bucket) JOIN places USING (n)
"""
_LEADS = """
    CREATE OR REPLACE TABLE leads AS
    SELECT bucket, min(place) AS lead, arg_min(n, place) AS n FROM live GROUP BY bucket
"""
_FIRSTS = """
    CREATE OR REPLACE TABLE firsts AS
    SELECT place FROM live JOIN leads USING (bucket) GROUP BY place HAVING bool_and(place = lead)
"""
_MET = """
    SELECT DISTINCT live.n AS n, leads.n AS stays FROM live JOIN leads USING (bucket) JOIN firsts ON lead = firsts.place
    WHERE live.place <> lead ORDER BY stays, n
"""
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
    while session.rows("SELECT 1 FROM live LIMIT 1"):
        session.rows(_LEADS)
        session.rows(_FIRSTS)
        alike = list(_alike(session, least, similarities))
        session.rows("DROP TABLE IF EXISTS alike")
        session.load("alike", _GONE, alike)
        session.rows(_CLOSEST)
        session.rows(_REST)


def _alike(session: Session, least: float, similarities: Similarities) -> Iterator[pa.RecordBatch]:
    """The pairs of this round that are alike."""
    for met in session.batches(_MET, _PAIRS):
        row, stays = (np.asarray(met[name], np.int64) for name in ("n", "stays"))
        alike = similarities(row, stays)
        near = alike >= least
        yield pa.record_batch([pa.array(values[near]) for values in (row, stays, alike)], schema=_GONE)
