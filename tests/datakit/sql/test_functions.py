"""datakit.duck.functions and tree: every function and clause of DuckDB is allowed or refused, and nobody forgot one."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from datakit.duck.functions import ALLOWED, TABLES, VALUES
from datakit.duck.tree import STATEMENTS, refused
from datakit.sql import Predicate, Query
from schemas import Column, Schema
from schemas.errors import ConfigError
from tests.datakit.sql.test_session import ROWS

REFUSED = frozenset(Path(__file__).with_name("refused_functions.txt").read_text().split())
"""Functions that were looked at and are not allowed; blanks inside a name are written as `_`."""

TIMES = Schema(
    "times", 1, (Column("t", ROWS["reward"].type, "", nullable=True), Column("user", ROWS["response"].type, ""))
)


@pytest.fixture(scope="module")
def duck():
    with duckdb.connect() as connection:
        yield connection


def test_every_function_was_looked_at(duck):
    """A new DuckDB's new functions fail here: put each into the one list or the other."""
    names = {str(row[0]).lower() for row in duck.execute("SELECT function_name FROM duckdb_functions()").fetchall()}
    assert {name.replace(" ", "_") for name in names - ALLOWED - TABLES} <= REFUSED
    assert not REFUSED & (ALLOWED | TABLES)


def test_no_allowed_function_varies(duck):
    varying = duck.execute(
        "SELECT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT' AND function_type = 'scalar'"
    ).fetchall()
    assert {"random", "now"} <= {name for (name,) in varying}
    assert not ALLOWED & {name.lower() for (name,) in varying}


def test_no_bare_name_is_a_call_that_slips_through(duck):
    names = duck.execute("SELECT DISTINCT function_name FROM duckdb_functions()").fetchall()
    slipped = set()
    for name in {*VALUES, *(str(row[0]).lower() for row in names)}:
        try:
            tree = json.loads(duck.execute("SELECT json_serialize_sql(?)", [f"SELECT {name} AS a"]).fetchall()[0][0])
            duck.execute(f"SELECT {name} AS a").fetchall()
        except duckdb.Error:
            continue
        if not tree["error"] and not refused(tree, STATEMENTS, frozenset({"rows"})):
            slipped.add(name)
    assert slipped == set()


CLOCK_AND_CHANCE = [
    "now()", "current_timestamp", "localtimestamp", "localtime", "current_date", "current_time", "today()",
    "get_current_timestamp()", "transaction_timestamp()", "age(TIMESTAMP '2020-01-01')", "version()", "random()",
    "uuid()", "gen_random_uuid()", "uuidv7()", "nextval('s')", "pg_backend_pid()", "pg_typeof(1)", "getenv('HOME')",
    "current_setting('threads')", "read_text('/etc/passwd')", "current_user", "session_user", "user",
    "hash(1)", "setseed(0.5)", "txid_current()", "current_query()", "ago(INTERVAL 1 DAY)", "pg_catalog.now()",
    "main.random()", "system.main.random()", "query('SELECT 1')", "sleep_ms(1)",
    "getvariable('a')", "list_transform([1], lambda x: random())",
    "list_aggregate([1], 'reservoir_quantile', 0.5)", "list_aggr([1], 'reservoir' || '_quantile', 0.5)",
    "[1].list_aggr('approx_quantile', 0.5)", "json_execute_serialized_sql('x')", "'a' COLLATE de",
]  # fmt: skip


@pytest.mark.parametrize("call", CLOCK_AND_CHANCE)
def test_what_depends_on_clock_chance_or_session_is_refused(call):
    with pytest.raises(ConfigError):
        Query(tables=("rows",), query=f"SELECT {call} AS a FROM rows").gives(ROWS)
    with pytest.raises(ConfigError):
        Predicate.of(f"({call}) IS NULL", ROWS)


@pytest.mark.parametrize(
    "query",
    [
        "FROM rows TABLESAMPLE 10%",
        "FROM rows TABLESAMPLE reservoir(10 ROWS) REPEATABLE (1)",
        "SELECT * FROM rows USING SAMPLE 3",
        "SELECT * FROM (SELECT * FROM rows USING SAMPLE 3)",
        "WITH a AS (SELECT * FROM rows USING SAMPLE 10%) FROM a",
        "SELECT approx_count_distinct(response) AS n FROM rows",
        "SELECT reservoir_quantile(reward, 0.5) AS n FROM rows",
        "SELECT response FROM rows ORDER BY uuid()",
        "SELECT reward FROM rows LIMIT (SELECT (random() * 5)::INT)",
        "SELECT sum(reward) OVER (ORDER BY random()) AS s FROM rows",
        "SELECT sum(reward) FILTER (random() > 0.5) AS s FROM rows",
        "SELECT sum(reward ORDER BY random()) AS s FROM rows",
        "FROM rows AT (VERSION => 1)",
        "SUMMARIZE rows",
        "DESCRIBE rows",
        "SHOW TABLES",
        "FROM query('SELECT random()')",
        "FROM query_table('rows')",
        "FROM duckdb_functions()",
        "FROM glob('/*')",
        "FROM repeat(1, 3)",
        "FROM pragma_version()",
        "PIVOT rows ON response USING sum(reward)",
        "SELECT * EXCLUDE (reward) REPLACE (random() AS response) FROM rows",
        "FROM main.rows",
        "WITH x AS (INSERT INTO rows VALUES (1) RETURNING reward) FROM x",
        "SELECT 1 AS a, current_date AS b FROM (SELECT 1 AS current_date) x, rows",
    ],
)
def test_clauses_that_are_refused(query):
    with pytest.raises(ConfigError):
        Query(tables=("rows",), query=query).gives(ROWS)


@pytest.mark.parametrize(
    "query",
    [
        "FROM rows",
        "SELECT times.user AS who FROM times",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) FROM r",
        "SELECT response, list(reward ORDER BY reward) AS l FROM rows GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL",
        "SELECT DISTINCT ON (response) response, reward FROM rows ORDER BY response, reward DESC NULLS LAST LIMIT 3",
        "SELECT row_number() OVER w AS n, lag(reward, 1, 0.0) OVER w AS last FROM rows WINDOW w AS (ORDER BY reward)",
        "SELECT response FROM rows QUALIFY rank() OVER (PARTITION BY response ORDER BY reward DESC) = 1",
        "SELECT response, sum(reward) AS s FROM rows GROUP BY GROUPING SETS ((response), ())",
        "SELECT response, sum(reward) AS s FROM rows GROUP BY ROLLUP (response)",
        "SELECT a.response FROM rows a LEFT JOIN rows b USING (response) SEMI JOIN rows c ON a.reward = c.reward",
        "SELECT a.response FROM rows a ASOF JOIN rows b ON a.reward >= b.reward",
        "SELECT response FROM rows WHERE reward = (SELECT max(reward) FROM rows) OR EXISTS (SELECT 1)",
        "SELECT response FROM rows WHERE reward NOT IN (SELECT reward FROM rows)",
        "(SELECT response FROM rows EXCEPT SELECT 'a') UNION ALL BY NAME SELECT 'b' AS response",
        "SELECT m.role, n FROM rows, unnest(messages) WITH ORDINALITY AS t(m, n)",
        "SELECT * FROM rows UNPIVOT (v FOR k IN (response))",
        "SELECT * FROM rows PIVOT (sum(reward) FOR response IN ('a', 'b'))",
        (
            "SELECT CASE WHEN reward BETWEEN 0 AND 1 THEN 'in' ELSE 'out' END AS c, TRY_CAST(response AS INT) AS d, "
            "coalesce(reward, 0) AS e, response LIKE 'a%' AS f, response SIMILAR TO 'a+' AS g, TRY(1) AS h FROM rows"
        ),
        (
            "SELECT [x * 2 for x in [1, 2] if x > 1] AS a, {'b': 1} AS b, MAP {'k': 1} AS c, messages[-1].role AS d, "
            "messages[1:2] AS e, list_transform([1], lambda x: x + 1) AS f, ROW(1, 2) AS g FROM rows"
        ),
        (
            "SELECT DATE '2020-01-01' + INTERVAL 3 DAY AS a, extract(year FROM DATE '2020-01-01') AS b, "
            "age(DATE '2020-01-01', DATE '2019-01-01') AS c, strftime(DATE '2020-01-01', '%d') AS d FROM rows"
        ),
        (
            "SELECT trim(response) AS a, substring(response FROM 1 FOR 2) AS b, position('a' IN response) AS c, "
            "response || 'x' AS d, response ILIKE '%A%' AS e, response COLLATE NOCASE = 'a' AS f FROM rows"
        ),
        "SELECT * EXCLUDE (messages) REPLACE (reward + 1 AS reward) FROM rows",
        "SELECT COLUMNS('re.*') FROM rows",
        "VALUES (1, 'a'), (2, 'b')",
        "SELECT r.reward, s.n FROM rows r, LATERAL (SELECT r.reward + 1 AS n) s",
        "SELECT response.upper().lower() AS chained, md5(response) AS digest FROM rows",
        "SELECT json_extract_string('{\"a\": 1}', '$.a') AS a, '{\"a\": 1}'::JSON ->> 'a' AS b FROM rows",
        "SELECT list_aggregate([1, 2], 'sum') AS a, [1].array_aggr('max') AS b FROM rows",
        "SELECT 1 AS year, year + 1 AS next_year FROM rows",
    ],
)
def test_clauses_that_are_fine(query):
    Query(tables=("rows", "times"), query=query).gives(ROWS, TIMES)


def test_a_column_with_the_name_of_a_session_value_is_read():
    assert Predicate.of("user = 'a'", TIMES).columns == ("user",)


def test_an_unknown_function_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"calls lenght\(\).*length"):
        Predicate.of("lenght(response) > 1", ROWS)
