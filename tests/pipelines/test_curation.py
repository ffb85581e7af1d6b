"""A query becomes a dataset: the same from Python and the command line, with lineage; a wrong one in a notebook."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pyarrow as pa
import pytest
from commands import environment, luigi
from nbclient import NotebookClient

import pipelines
from datakit.sql import connect
from pipelines.commands.curation import NO_KEY, Query
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from schemas import SAMPLES, Column
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError

REWARDED = SAMPLES.selecting("prompt_id", "messages", "sample_id", "sample_index", "response").adding(
    Column("reward", pa.float64(), "higher is better")
)
QUERY = "SELECT * FROM self WHERE reward > 1"


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.chdir(tmp_path)
    kind = REWARDED.renamed("samples", key=("sample_id",))
    return Dataset.from_arrow(kind.example(6), kind, str(tmp_path / "quiver-data/drawn/samples"))


def test_a_notebook_commits_what_the_command_then_finds_done(samples: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two commits stands a wrong one: five fields, no traceback, and the kernel goes on."""
    cells = [
        "import pipelines\nfrom schemas import Dataset\nsamples = Dataset.open('quiver-data/drawn/samples')",
        f"good = pipelines.commit('{QUERY}', samples, name='curated/good')\nprint(good.lineage())",
        "pipelines.commit('SELECT * FROM self WHERE rewrd > 1', samples, name='curated/other')",
        "pipelines.commit('SELECT sample_id FROM self JOIN g USING (sample_id)', samples, g=good, name='c/j')",
        "marked = pipelines.mark(good, good=['sample_id 3'], edited={'sample_id 5': 'Yes.'}, name='curated/marked')",
        "print(marked.read(['sample_id', 'mark', 'edited']).to_pylist())",
    ]
    for name, value in environment(JUPYTER_PLATFORM_DIRS="1", IPYTHONDIR=str(Path.cwd() / "ipython")).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    where = {"metadata": {"path": str(Path.cwd())}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True, resources=where).execute()
    printed = [[one.text for one in cell.outputs if one.get("name") == "stdout"] for cell in notebook.cells]
    [fault] = [one for cell in notebook.cells for one in cell.outputs if one.output_type == "error"]
    assert [line.split(":")[0] for line in fault.traceback] == ["error[2/query]", "  expected", "  kept", "  next"]
    assert "(did you mean reward?)" in fault.traceback[0]
    assert fault.traceback[-1] == "  next: pipelines.commit('SELECT * FROM self WHERE reward > 1', ...)"
    lines = "".join(printed[1]).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("sql.query  3 rows"))
    assert lines[at + 1].startswith("  notebook.rows  6 rows")

    words = ("--data", "drawn/samples", f"--query={QUERY}", "--name=curated/good")
    done = luigi(Path.cwd(), "Query", *words, module="pipelines")
    assert done.returncode == 0 and "everything is there already, nothing to do" in done.stderr
    [place] = Path("quiver-data/curated").glob("good-*")
    good = Dataset.open(str(place))
    assert good.read()["reward"].to_pylist() == [1.5, 2.0, 2.5] and good.schema.key == ("sample_id",)
    assert good.schema.name == "samples" and good.manifest.parents[0].content_digest == samples.content_digest
    assert "'sample_id 5', 'mark': 'edited', 'edited': 'Yes.'" in "".join(printed[5])
    [joined] = Path("quiver-data/c").glob("j-*")
    assert [os.path.basename(one.url) for one in Dataset.open(str(joined)).manifest.parents] == ["samples", place.name]


@pytest.mark.usefixtures("samples")
def test_marks_come_back_from_python_and_from_a_sheet(tmp_path: Path) -> None:
    """The command prints what was set aside; a sheet that changed is another dataset."""
    (tmp_path / "marks.csv").write_text("sample_id,mark,edited\nsample_id 0,good,\nsample_id 4,fine,\nnobody,bad,\n")
    words = ("--data", "drawn/samples", "--marks", "marks.csv", "--name=curated/sheet")
    done = luigi(tmp_path, "Mark", *words, module="pipelines")
    assert done.returncode == 0 and "unknown-mark 1, unknown-sample 1" in done.stdout
    [sheet] = (tmp_path / "quiver-data/curated").glob("sheet-*")
    (tmp_path / "marks.csv").write_text("sample_id,mark\nsample_id 0,bad\n")
    assert luigi(tmp_path, "Mark", *words, module="pipelines").returncode == 0
    assert len([*(tmp_path / "quiver-data/curated").glob("sheet-*")]) == 2
    assert Dataset.open(str(sheet)).read()["human"].to_pylist() == [1.0]
    with connect("quiver-data") as views:
        asked = "SELECT sample_id, value FROM everything.rewards WHERE scorer = 'human' ORDER BY value"
        assert views.sql(asked).fetchall() == [("sample_id 0", 0.0), ("sample_id 0", 1.0)]


def planned(place: str = "drawn/samples", **settings: str) -> Node:
    """What a query over one dataset would make."""
    asked = {"query": QUERY, "data": place, "name": "curated/rows", **settings}
    [node] = Query(**asked).build(Plan("quiver-data"))
    return node


@pytest.mark.usefixtures("samples")
def test_rows_are_of_the_kind_and_key_that_still_hold() -> None:
    whole, ids = planned(), planned(query="SELECT sample_id, reward FROM self")
    assert (whole.schema.name, whole.schema.key) == ("samples", ("sample_id",))
    assert (ids.schema.name, ids.schema.key) == ("rows", ("sample_id",))
    assert planned(query="SELECT max(reward) AS most FROM self").schema.key == ()
    assert planned(key=NO_KEY, kind="good").schema.key == () and planned(kind="good").schema.name == "good"
    assert planned(key="prompt_id,sample_index").schema.key == ("prompt_id", "sample_index")


@pytest.mark.usefixtures("samples")
def test_what_is_committed_as_a_kind_of_rows_has_no_nulls_where_that_has_none() -> None:
    """So that pairs which a query makes can be learnt from; without that, the key is what it was before."""
    query = "SELECT sample_id AS pair_id, messages, response AS chosen, 'no' AS rejected, NULL::VARCHAR AS source"
    pairs = planned(query=f"{query} FROM self", kind="preferences", key="pair_id")
    assert [name for name in pairs.schema.names if pairs.schema[name].nullable] == ["source"]
    assert planned(query=f"{query} FROM self", kind="mine").schema["chosen"].nullable
    assert "required" not in planned().op.params() and pairs.op.params()["required"] == [
        "pair_id",
        "chosen",
        "rejected",
    ]


@pytest.mark.usefixtures("samples")
def test_a_dataset_is_named_as_quiver_ls_has_it_or_by_its_folder() -> None:
    assert planned("drawn/samples").task_key == planned("quiver-data/drawn/samples").task_key
    with pytest.raises(ConfigError, match=r"nothing is called drawn/sample \(did you mean drawn/samples"):
        planned("drawn/sample")
    with pytest.raises(ConfigError, match="drawn is a folder of 1 result; one is needed"):
        planned("drawn")


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"place": " , "}, "a query reads rows; no --data was given"),
        ({"tables": "a,b"}, "--tables names 2, --data has 1"),
        ({"place": "drawn/samples,drawn/samples"}, "--tables names 1, --data has 2"),
        ({"query": "DELETE FROM self"}, "is not one SELECT"),
        ({"query": "FROM samples"}, "reads samples, which is not among its tables"),
        ({"key": "id"}, "must be different names and hold the key"),
    ],
)
def test_what_is_no_query_over_the_given_rows_is_refused(settings: dict[str, str], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as fault:
        planned(**settings)
    assert fault.value.kept == "nothing was started" and fault.value.expected + fault.value.next


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize(
    ("query", "column"),
    [
        ("SELECT * REPLACE (NULL AS response) FROM self", "response"),
        ("SELECT NULL AS sample_id, reward FROM self", "sample_id"),
    ],
)
def test_a_column_of_nothing_but_null_is_refused_where_there_are_none(query: str, column: str) -> None:
    with pytest.raises(ConfigError, match=f"nothing but NULL as {column}") as caught:
        planned(query=query)
    assert caught.value.kept == "nothing was started"
    assert planned(query=query, kind="mine", key=NO_KEY).schema[column].nullable


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize("end", [";", " ;\n", ";;"])
def test_a_semicolon_ends_a_query(end: str) -> None:
    assert planned(query=QUERY + end).schema == planned().schema


@pytest.mark.usefixtures("samples")
def test_rows_that_share_a_key_say_how_to_do_without() -> None:
    """The key is the first table's, and a query may give a row of it several times."""
    query = "SELECT sample_id, unnest(range(2)) AS part FROM self"
    with pytest.raises(DataError, match=r"6 sample_id of sql\.query stand in several rows") as caught:
        pipelines.commit(query, "drawn/samples", name="curated/parts")
    assert caught.value.next.endswith("or none: quiver Query --key -")
    assert pipelines.commit(query, "drawn/samples", name="curated/parts", key=()).num_rows == 12
