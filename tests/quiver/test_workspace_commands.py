"""`quiver sql`, `ls`, `catalog` and `show NAME`, as a terminal shows them and as other programs read them."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.catalog.sql_text import literal
from quiver import console, grid
from schemas import SAMPLES
from schemas.errors import ConfigError, QuiverError
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples
from tests.quiver.answers import answer

ANSI = "\x1b[31mred\x1b[0m"

pytestmark = pytest.mark.usefixtures("activated")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "quiver-data").mkdir()
    make = Maker(tmp_path / "quiver-data")
    given = samples(60)
    place = given.column_names.index("response")
    given = given.set_column(place, given.schema.field(place), pa.array([ANSI, "=1+1", *["x" * 500] * 58]))
    first = make("rest/digits/iter=1/samples-00000001", SAMPLES, given, op="generate.complete")
    scored = rewarded(given, [float(number) for number in range(60)])
    params = {"column": "reward", "reads": "reward"}
    make("rest/digits/iter=1/rewards-00000001", REWARDED, scored, first, op="label.reward", params=params)
    make("rest/digits/iter=1/rewards-00000002", REWARDED, scored[:5], first, op="label.reward", params=params)
    return make


def test_a_grid_fits_eighty_columns_and_steers_no_terminal(
    workspace: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    text = answer(capsys, "sql", "SELECT sample_id, response, prompt, 1.5 AS reward FROM samples ORDER BY sample_id")
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "\\u001b[31mred" in text
    assert "the first 40 rows" in text


def test_a_grid_measures_in_columns_of_a_terminal(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "sql", f"SELECT sample_id, '{'日本語' * 30}' AS wide, 1 AS n FROM samples LIMIT 2")
    wide = [sum(2 if ord(one) > 0x2FFF else 1 for one in line) for line in text.splitlines()]
    assert max(wide) <= 80
    assert len(set(wide[1:3])) == 1
    assert "日本語…" in text or "日本…" in text or "日…" in text


def test_a_name_is_cut_in_its_middle_and_a_sentence_at_its_end() -> None:
    names = [f"rest/my-model+my-reward/iter=1/step={step}/kept" for step in (1, 2)]
    assert len({grid.placed(name, 30) for name in names}) == 2 and grid.placed(names[0], 30).endswith("step=1/kept")
    assert grid.placed("a sentence that goes on and on", 12) == "a sentence …"
    assert grid.placed("short", 8) == "short   " and grid.placed("12", 4, to_right=True) == "  12"


def test_what_is_asked_of_no_view_is_named_whole(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    for query, words in (
        ("SELECT * FROM other.samples", "reads other.samples, which is not"),
        ("", "SELECT: none, or several"),
    ):
        with pytest.raises(ConfigError, match=words):
            answer(capsys, "sql", query)


def test_csv_on_a_terminal_steers_none(workspace: Maker) -> None:
    master, slave = os.openpty()
    program = [sys.executable, "-c", "from quiver.console import main; main()"]
    words = ["sql", "SELECT response FROM samples ORDER BY sample_id", "--csv"]
    child = subprocess.Popen(
        [*program, *words],
        stdout=slave,
        stderr=subprocess.STDOUT,
    )
    os.close(slave)
    shown = b""
    with suppress(OSError):  # the end of a terminal that its last writer closed
        while piece := os.read(master, 65536):
            shown += piece
    os.close(master)
    assert child.wait() == 0
    assert b"\x1b" not in shown
    assert b"\\u001b[31mred" in shown


FORMULAS = [
    "=1+1",
    "+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    '=HYPERLINK("http://x","y")',
    "=cmd|' /C calc'!A0",
    "-",
    "=",
]
"""Texts that a spreadsheet computes."""
TEXTS = ["1", "a=1", "'=1", " =1", "", "\n=1", '"=1"', "{=1}", "日", "['=1']"]
"""Texts that it does not."""


def test_no_text_is_a_formula_in_csv(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers below 0 are numbers; with --formulas all texts are as they are."""
    values = ", ".join(f"({n}, {literal(text)})" for n, text in enumerate([*FORMULAS, *TEXTS]))
    query = f"""SELECT text AS "=1", -1.5 AS number FROM (VALUES {values}) AS t(n, text) ORDER BY n"""
    rows = list(csv.reader(io.StringIO(answer(capsys, "sql", query, "--csv"), newline="")))
    assert rows[0] == ["'=1", "number"]
    assert [row[0] for row in rows[1:]] == [f"'{text}" for text in FORMULAS] + TEXTS
    assert {row[1] for row in rows[1:]} == {"-1.5"}
    rows = list(csv.reader(io.StringIO(answer(capsys, "sql", query, "--csv", "--formulas"), newline="")))
    assert [row[0] for row in rows] == ["=1", *FORMULAS, *TEXTS]
    with pytest.raises(QuiverError, match="formulas"):
        console.run(["sql", query, "--json", "--formulas"])


def test_an_answer_goes_out_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no command holds all of it; of an answer that fails at once nothing is written."""
    sink = io.StringIO()
    monkeypatch.setattr(sys, "stdout", sink)

    def lines(count: int) -> Iterator[str]:
        for number in range(count):
            assert number * 1000 - len(sink.getvalue()) < 200_000
            yield "x" * 1000
            yield ""
        raise ConfigError("query", "the rest fails")

    with pytest.raises(ConfigError):
        console._print(lines(10))
    assert sink.getvalue() == ""
    with pytest.raises(ConfigError):
        console._print(lines(1000))
    assert sink.getvalue().startswith("x" * 1000 + "\n\n" + "x" * 1000)


def test_rows_with_too_many_columns_stand_below_each_other(
    workspace: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    text = answer(capsys, "sql", "FROM samples ORDER BY sample_id LIMIT 2")
    assert max(map(len, text.splitlines())) <= 80
    assert "row 1" in text
    assert all(f"\n  {column}" in text for column in SAMPLES.names)


def test_csv_json_and_parquet_hold_every_row_as_it_is(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT sample_id, response, prompt_ids, 'NaN'::DOUBLE AS n FROM samples ORDER BY sample_id"
    expected = sorted(pq.read_table(next(workspace.root.rglob("samples-*/part-*")))["sample_id"].to_pylist())
    rows = list(csv.DictReader(io.StringIO(answer(capsys, "sql", query, "--csv"))))
    assert [row["sample_id"] for row in rows] == expected
    assert ANSI in {row["response"] for row in rows}
    objects = json.loads(answer(capsys, "sql", query, "--json"))
    assert [one["sample_id"] for one in objects] == expected
    assert [json.loads(row["prompt_ids"]) for row in rows] == [one["prompt_ids"] for one in objects]
    assert objects[0]["n"] == "nan"
    assert answer(capsys, "sql", query, "--parquet", "rows.parquet") == "60 rows in rows.parquet\n"
    assert pq.read_table("rows.parquet")["sample_id"].to_pylist() == expected
    with pytest.raises(QuiverError) as refusal:
        console.run(["sql", query, "--parquet", "rows.parquet"])
    assert refusal.value.slug == "out-taken"


@pytest.mark.parametrize("flag", [(), ("--csv",), ("--json",)])
def test_no_rows_are_reported_to_be_none(
    workspace: Maker, capsys: pytest.CaptureFixture[str], flag: tuple[str]
) -> None:
    text = answer(capsys, "sql", "SELECT sample_id FROM samples WHERE false", *flag)
    assert text == {(): "no rows (sample_id)\n", ("--csv",): "sample_id\n", ("--json",): "[]\n"}[flag]


def test_ls_names_what_there_is_once(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "ls")
    assert max(map(len, text.splitlines())) <= 80
    assert [line.split()[0] for line in text.splitlines()] == ["rest/digits/iter=1", "rewards", "samples"]
    [reward, sample] = json.loads(answer(capsys, "ls", "--json"))
    assert (reward["name"], reward["variant"], reward["rows"]) == ("rest/digits/iter=1/rewards", "00000002", 5)
    assert (sample["rows"], sample["made_by"]) == (60, "generate.complete")
    assert sample["bytes"] == sum(file.stat().st_size for file in Path(sample["place"]).glob("part-*"))
    assert len(json.loads(answer(capsys, "ls", "rest", "--json", "--all"))) == 3
    with pytest.raises(ConfigError, match="nothing is called"):
        console.run(["ls", "rets"])


def test_show_takes_the_names_of_ls(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "show", "rest/digits/iter=1/rewards")
    assert "rewards-00000002" in text
    assert "5 rows of samples" in text


def test_the_catalog_is_made_in_one_command(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "catalog")
    assert max(map(len, text.splitlines())) <= 80
    assert (workspace.root / "catalog.duckdb").is_file()
    assert "quiver-data/catalog.duckdb: views over 3 results" in text


def test_the_root_is_the_one_of_the_configuration(
    workspace: Maker, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    workspace.root.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no workspace"):
        console.run(["ls"])
    assert answer(capsys, "ls", "--root", "elsewhere").startswith("rest/digits/iter=1\n")
    Path("luigi.cfg").write_text("[quiver]\nroot = elsewhere\n")
    assert answer(capsys, "ls").startswith("rest/digits/iter=1\n")
    assert answer(capsys, "sql", "SELECT count(*) AS n FROM samples", "--csv") == "n\n60\n"


def test_they_load_neither_luigi_nor_torch(workspace: Maker) -> None:
    code = (
        "import sys; from quiver import console\n"
        "for words in (['ls'], ['sql', 'FROM samples LIMIT 1'], ['catalog']): console.run(words)\n"
        "print('loaded', *(sys.modules.keys() & {'luigi', 'torch', 'polars'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded"


def test_columns_of_ls_stand_below_each_other(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """However long a name is: one that has no room stands whole, in a line of its own."""
    for name in ("short", "pairs.held-out.texts", "日本語", f"{'long-' * 9}name"):
        workspace(f"own/{name}-00000003", SAMPLES, samples(7), op="template.reward_prompt")
    lines = answer(capsys, "ls", "own").splitlines()
    names = {line.strip().split()[0] for line in lines[1:]}
    assert {"short", "pairs.held-out.texts", "日本語", f"{'long-' * 9}name"} <= names
    wide = [
        sum(2 if ord(one) > 0x2FFF else 1 for one in line[: line.index("  7  ")]) for line in lines if "  7  " in line
    ]
    assert len(wide) == 4 and len({*wide}) == 1, lines
    assert max(map(len, lines)) <= 80


def test_a_folder_of_results_is_listed_once_and_shown_by_what_is_in_it(
    workspace: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace("rest/digits/tokenizer-00000003", SAMPLES, samples(2), op="tokenize.train")
    workspace("rest/digits/answers-00000004", SAMPLES, samples(1), op="tokenize.train")
    folders = [line for line in answer(capsys, "ls").splitlines() if not line.startswith(" ")]
    assert folders == ["rest/digits", "rest/digits/iter=1"]
    for name, count in (("rest", 4), ("rest/digits/iter=1/", 2)):
        with pytest.raises(QuiverError, match=f"it is a folder of {count} results") as caught:
            console.run(["show", name])
        assert (
            caught.value.next == f"quiver ls {name.strip('/')}"
            and "iter=1/rewards" in dict(caught.value.fields)["expected"]
        )
        console.run(caught.value.next.split()[1:])
    with pytest.raises(QuiverError) as caught:
        console.run(["show", "rest/digits/iter=1/reward", "--root", "quiver-data"])
    assert caught.value.next == "quiver show rest/digits/iter=1/rewards --root quiver-data"
    console.run(caught.value.next.split()[1:])


def test_lists_of_numbers_are_rounded_on_a_screen_and_nowhere_else(
    workspace: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT [0.1234567891234, 1e-9/3] AS kept, {'a': 2/3} AS one"
    assert '[0.123457, 3.33333e-10]  {"a": 0.666667}' in answer(capsys, "sql", query)
    assert json.loads(answer(capsys, "sql", query, "--json"))[0] == {
        "kept": [0.1234567891234, 1e-9 / 3],
        "one": {"a": 2 / 3},
    }


def test_whole_rows_are_shown_a_line_for_each_field(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    cut = answer(capsys, "show", "rest/digits/iter=1/samples", "--rows", "3")
    assert "x" * 500 not in cut and "…" in cut
    whole = answer(capsys, "show", "rest/digits/iter=1/samples", "--rows", "3", "--whole").splitlines()
    assert [line.split()[1] for line in whole if line.split()[:1] == ["response"]][2] == "x" * 500
    assert "\x1b" not in "".join(whole)
    with pytest.raises(ConfigError):
        console.run(["show", "rest/digits/iter=1/samples", "--whole", "--mask"])


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "quiver-data").mkdir()


@pytest.mark.usefixtures("bare")
def test_moments_that_python_cannot_hold_are_texts_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    query = (
        "SELECT DATE 'infinity' AS d, '294247-01-10 04:00:54.775806'::TIMESTAMP AS t, [TIMESTAMPTZ '-infinity'] AS l,"
        " DATE '2024-01-02' AS e"
    )
    wanted = ["infinity", "294247-01-10 04:00:54.775806", ["-infinity"], "2024-01-02"]
    assert [*json.loads(answer(capsys, "sql", query, "--json"))[0].values()] == wanted
    assert next(csv.reader(answer(capsys, "sql", query, "--csv").splitlines()[1:])) == [
        text if isinstance(text, str) else json.dumps(text) for text in wanted
    ]
    assert "infinity  294247-01-10 04:00:54.775806" in answer(capsys, "sql", query)
    answer(capsys, "sql", query, "--parquet", "rows.parquet")
    assert [str(kind) for kind in pq.read_schema("rows.parquet").types[:2]] == ["date32[day]", "timestamp[us]"]


@pytest.mark.usefixtures("bare")
def test_values_that_arrow_has_no_type_for_are_texts_as_duckdb_writes_them(capsys: pytest.CaptureFixture[str]) -> None:
    query = (
        "SELECT 340282366920938463463374607431768211455::UHUGEINT AS n, '10:00:00+05'::TIMETZ AS t, '101'::BIT AS b,"
        " INTERVAL 3 MONTH AS i, 1 AS one, 2 AS one ORDER BY n"
    )
    assert answer(capsys, "sql", query, "--csv") == (
        "n,t,b,i,one,one\n340282366920938463463374607431768211455,10:00:00+05,101,3 months,1,2\n"
    )
    assert answer(capsys, "sql", query.replace(", 2 AS one", ""), "--parquet", "rows.parquet").startswith("1 row in")
    assert pq.read_table("rows.parquet")["i"].to_pylist() == ["3 months"]


@pytest.mark.usefixtures("bare")
def test_columns_of_one_name_are_all_there(capsys: pytest.CaptureFixture[str]) -> None:
    """As DuckDB names them in a table; a JSON object would keep the last, a Parquet file is read by no program."""
    query = "SELECT 1 AS x, 2 AS x, 3 AS X, 4 AS x_1, 5 AS y"
    with duckdb.connect() as db:
        made = db.execute(f"CREATE TABLE made AS {query}").execute("DESCRIBE made").fetchall()
    wanted = {"x": 1, "x_1": 2, "X_2": 3, "x_1_1": 4, "y": 5}
    assert [*wanted] == [one[0] for one in made]
    assert json.loads(answer(capsys, "sql", query, "--json")) == [wanted]
    answer(capsys, "sql", query, "--parquet", "rows.parquet")
    assert pq.read_table("rows.parquet").to_pylist() == [wanted]
    assert duckdb.sql("FROM 'rows.parquet'").fetchall() == [(1, 2, 3, 4, 5)]


@pytest.mark.usefixtures("bare")
def test_sums_of_whole_numbers_are_whole_numbers_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """DuckDB adds them up in 128 bits, which Arrow has as a decimal."""
    query = "SELECT sum(n) AS s, [sum(n)] AS l, 1.50 AS d FROM (VALUES (9007199254740993), (2), (-1)) AS t(n)"
    assert json.loads(answer(capsys, "sql", query, "--json")) == [
        {"s": 9007199254740994, "l": [9007199254740994], "d": "1.50"}
    ]
    assert answer(capsys, "sql", query, "--csv") == "s,l,d\n9007199254740994,[9007199254740994],1.50\n"


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("value", ["170141183460469231731687303715884105727", "'24:00:00'::TIME"])
def test_a_value_that_its_arrow_type_cannot_hold_is_named_and_breaks_no_limit(value: str) -> None:
    with pytest.raises(QuiverError, match=r'column n: .*CAST\("n" AS VARCHAR\) makes it a text') as caught:
        console.run(["sql", f"SELECT {value} AS n"])
    assert caught.value.slug == "sql-failed"
