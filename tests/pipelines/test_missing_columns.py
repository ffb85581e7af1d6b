"""A column that rows lack: the next command works as it is printed, or says what the file needs."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from pyarrow import parquet

from datakit.label import Logprobs, Verify
from datakit.op import Context, Label
from datakit.registry import OPS
from datakit.tokenize import Mask
from pipelines.graph import from_file, made_by
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import rows_at
from pipelines.runtime import command
from schemas import PREFERENCES, Column, Schema
from schemas.dataset import Dataset
from trainers.registry import algorithm_of

NUMBER = """--params '{"kind": "number"}'"""
SOLUTION = """--params '{"kind": "number", "answer": "solution"}'"""


@pytest.fixture
def folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of a small model; commands are printed as `quiver` has them, on one line."""
    monkeypatch.setenv("COLUMNS", "2000")
    monkeypatch.setattr("sys.argv", ["quiver"])
    monkeypatch.setattr("pipelines.cli.invocation.program", lambda name: name)
    return place


def rows(folder: Path, *records: Any, name: str = "gold.jsonl") -> Path:
    """A file of questions and answers with what else the `records` hold."""
    several = [{"prompt": f"q {n}", "response": str(n), **record} for n, record in enumerate(records)]
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in several))
    return folder / name


def followed(words: str, capsys: pytest.CaptureFixture[str], code: int | str = 10) -> str:
    """What the command of `words` says to do next."""
    with pytest.raises(SystemExit) as ended:
        command.run(shlex.split(words))
    printed = capsys.readouterr().err
    assert ended.value.code == code, printed
    _, mark, following = printed.rstrip().rpartition("next: ")
    assert mark and "\n" not in following, printed
    return following


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"answer": "1"}, f"Label --op verify --data gold.jsonl {NUMBER} --name a/b --keep answer"),
        ({"solution": "1"}, f"Label --op verify --data gold.jsonl --name a/b --keep solution {SOLUTION}"),
    ],
)
def test_a_gold_answer_under_any_name_is_carried_by_the_command_that_is_printed(
    given: dict[str, Any], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(folder, given, given)
    following = followed(f"Label --op verify --data gold.jsonl {NUMBER} --name a/b", capsys)
    assert following == f"quiver {expected}"
    command.run(shlex.split(following)[1:])
    [made] = (folder / "quiver-data/a").glob("b-*")
    assert Dataset.open(str(made)).read(["correct"])["correct"].to_pylist() == [0.0, 1.0], "answers 0 and 1, gold 1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "give each row of gold.jsonl the key answer, then --keep answer"),
        ({"answer": 1}, "write answer in each row of gold.jsonl as string, then --keep answer"),
    ],
)
def test_a_gold_answer_that_is_not_there_is_asked_of_the_file(
    given: dict[str, Any], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(folder, given)
    assert followed(f"Label --op verify --data gold.jsonl {NUMBER}", capsys) == expected


def test_rows_that_were_imported_without_their_gold_answer_are_imported_with_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(folder, {"answer": "1"}, {"answer": "1"})
    command.run(shlex.split("Import --files gold.jsonl --name a/b"))
    [made] = (folder / "quiver-data/a").glob("b-*")
    following = followed(f"Label --op verify --data {made} {NUMBER}", capsys)
    assert following == "quiver Import --files gold.jsonl --format completions --keep answer"
    (folder / "gold.jsonl").rename(folder / "moved.jsonl")
    following = followed(f"Label --op verify --data {made} {NUMBER}", capsys)
    assert following == "import gold.jsonl again, with --keep answer", "it lies elsewhere now"
    (folder / "moved.jsonl").rename(folder / "gold.jsonl")
    rows(folder, {}, {}, name="bare.jsonl")
    command.run(shlex.split("Import --files bare.jsonl --name a/bare"))
    [made] = (folder / "quiver-data/a").glob("bare-*")
    expected = "give each row of bare.jsonl the key answer, and import it again with --keep answer"
    assert followed(f"Label --op verify --data {made} {NUMBER}", capsys) == expected


def test_a_key_that_no_format_reads_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows(folder, {"level": 1}, {"level": 2})
    where = """Filter --op where --data gold.jsonl --params '{"predicate": "level > 1"}'"""
    following = followed(where, capsys, 2)
    assert following == f"quiver {where} --keep level"
    command.run(shlex.split(following)[1:])


def test_a_reward_in_the_file_is_read_before_a_model_is_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows(folder, {"reward": 1.0}, {"reward": 2.0})
    following = followed("Label --op standardize --data gold.jsonl", capsys)
    assert following == "quiver Label --op standardize --data gold.jsonl --format rewarded"
    command.run(shlex.split(following)[1:])


def test_other_settings_of_the_operation_that_read_the_rows_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "q"}\n')
    given = "Template --op reward_prompt --data pairs.jsonl --format preferences --tokenizer model"
    following = followed(given, capsys)
    assert following == f"""quiver {given} --params '{{"rows": "preferences"}}'"""
    command.run(shlex.split(following)[1:])


def placed(name: str, schema: Any) -> str:
    """A dataset of two rows of a schema."""
    return Dataset.from_arrow(schema.example(2), schema, name).url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Tokenize --op mask --data gold.jsonl --tokenizer model --format completions --keep level",
         "Template --op chat --tokenizer model --data gold.jsonl --keep level"),
        ("Train --data texts --algorithm sft --model model", "Tokenize --op mask --tokenizer model --data texts"),
        ("Train --data texts --algorithm sft --model {here}/model --quiver-root {here}/elsewhere",
         "Tokenize --op mask --tokenizer {here}/model --data texts --quiver-root {here}/elsewhere"),
        ("Train --data pairs --algorithm dpo --model model",
         "Template --op reward_prompt --tokenizer model --params '{{\"rows\": \"preferences\"}}' --data pairs"),
    ],
)  # fmt: skip
def test_the_model_and_the_root_that_are_given_stand_in_the_command(
    given: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(folder, {"level": 1})
    placed("texts", Mask().takes)
    placed("pairs", PREFERENCES)
    following = followed(given.format(here=folder), capsys)
    assert following == f"quiver {expected.format(here=folder)}"


@pytest.mark.parametrize("algorithm", ["dpo", "kto", "ipo"])
def test_a_reference_is_asked_in_the_precision_of_the_training(
    algorithm: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it is set by `--set`, or by JSON."""
    learns = algorithm_of(algorithm)
    placed("rows", learns.rows.dropping(*learns.references))
    half = (" --set precision=bf16", """ --learning '{"precision": "bf16"}'""")
    for more, precision in (("", "fp32"), (half[0], "bf16"), (half[1], "bf16")):
        given = f"Train --data rows --algorithm {algorithm} --model {folder}/model{more}"
        words = shlex.split(followed(given, capsys))
        options = dict(zip(words[2::2], words[3::2], strict=True))
        assert (words[1], options["--op"], options["--model"]) == ("Label", "logprobs", f"{folder}/model"), words
        asked = Logprobs.of(json.loads(options["--params"]))
        assert asked.precision == precision and {*asked.gives(asked.takes).names} >= {*learns.references}


@pytest.mark.usefixtures("activated")
def test_a_page_is_named_where_rows_come_of_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placed("texts", Mask().takes)
    following = followed("Template --op reward_prompt --data texts --tokenizer model", capsys)
    assert following.startswith("quiver formats ")


def test_a_column_of_a_parquet_file_is_carried(folder: Path) -> None:
    table = pa.table({"prompt": ["q"], "response": ["1"], "answer": ["1"]})
    parquet.write_table(table, folder / "rows.parquet")
    plan = Plan("data")
    read = rows_at(plan, "rows.parquet", "completions")
    op = Verify(kind="number")
    assert from_file.there(from_file.Lack(["answer"], read, op.takes, op)) == "--keep answer"
    assert from_file.needs(from_file.Lack(["gold"], read)).startswith("give each row of ")
    made = Dataset.from_arrow(pa.table({"response": ["1"]}), Schema.of_arrow(pa.schema({"response": pa.string()})), "x")
    there = plan.existing(made.url, "dataset")
    assert from_file.there(from_file.Lack(["answer"], there, op.takes, op)) == ""
    assert from_file.needs(from_file.Lack(["answer"], there, op.takes, op)) == "", "nobody read them from a file"


def test_an_operation_with_a_needed_setting_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge has to be given its question: it is not what an error says to run, and breaks no other error."""

    @dataclass(frozen=True, kw_only=True)
    class Judge(Label):
        name: ClassVar[str] = "label.asked"
        rubric: str

        @property
        def takes(self) -> Schema:
            return Schema("rows", 1, ())

        @property
        def adds(self) -> tuple[Column, ...]:
            return (Column("verdict", pa.string(), "what it says"),)

        def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
            return {"verdict": pa.array([self.rubric] * rows.num_rows)}

    monkeypatch.setattr(made_by, "OPS", {**OPS, Judge.name: Judge})
    made_by.makers.cache_clear()
    try:
        assert not any(maker.op is not None and maker.op.name == Judge.name for maker in made_by.makers())
        assert any("reward" in maker.adds for maker in made_by.makers())
    finally:
        made_by.makers.cache_clear()
