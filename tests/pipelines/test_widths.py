"""Everything that is printed reads in a terminal of 80 columns; a narrower or wider one is obeyed."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import environment, luigi

from datakit.run.progress import Progress
from pipelines.cli import invocation
from pipelines.cli.console import Stage, labelled, say, say_error, say_of
from pipelines.cli.known_commands import commands
from pipelines.commands import usage
from pipelines.report.figures import FigureTable
from pipelines.report.iterations import _COLUMNS
from pipelines.report.table import text
from quiver import console
from schemas.errors import ConfigError, DataError
from schemas.process import terminal

ROOT = Path(__file__).resolve().parents[2]
LISTS = ("", "--help", "ops", "formats", "algorithms", "recipes", "ops -h", "ops label.length", "ops filter.threshold")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(invocation, "_given", [])


def widest(printed: str) -> int:
    return max(map(len, printed.splitlines()))


@pytest.mark.parametrize("words", LISTS)
@pytest.mark.parametrize("columns", [60, 80, 160])
def test_lists_fit(
    words: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert console.run(words.split()) == 0
    assert 40 < widest(capsys.readouterr().out) <= columns


@pytest.mark.parametrize("columns", [60, 80])
def test_help_pages_fit(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert widest("\n".join(usage.overview())) <= columns
    for name, kind in commands().items():
        page = "\n".join(usage.page(kind))
        too_long = [line for line in page.splitlines() if len(line) > columns and len(line.split()) > 1]
        assert not too_long, (name, too_long)


def test_where_there_is_no_terminal_80_columns_are_supposed() -> None:
    code = "from schemas.process.terminal import width; print(width())"
    for columns, wanted in ((None, 80), ("100", 100), ("no", 80), ("7", 40)):
        given = {name: value for name, value in environment().items() if name != "COLUMNS"}
        given |= {} if columns is None else {"COLUMNS": columns}
        done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
        assert int(done.stdout) == wanted


def test_a_table_of_many_iterations_turns_and_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    row = (
        1,
        8192,
        (4096, 2048),
        (0.5, 0.25),
        -0.25,
        (0.5, 1.0),
        0.5,
        0.625,
        (-0.5, 1.5),
        (12.0, 14.5),
        (100.0, 9.0, 71.0, 3.0),
    )
    printed = text(FigureTable("RestIteration on digits", _COLUMNS, (row,) * 5))
    assert widest(printed) <= 80
    assert len(re.findall(r"^samples +8,192", printed, re.MULTILINE)) == 2, "five iterations in two blocks"
    assert printed.count("4,096, 2,048") == 5 and printed.count("-0.50 -> +1.50") == 5
    legend = printed.split("\n  ")
    assert any(line.startswith("gold before") and "gold (known right) answer" in line for line in legend)
    monkeypatch.setenv("COLUMNS", "300")
    assert "---" in text(FigureTable("RestIteration on digits", _COLUMNS, (row,) * 5))


def test_each_column_of_a_recipes_table_has_a_meaning() -> None:
    from pipelines.report.pairs import _of_answers, _of_pairs

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = {
        name.strip() for cells in re.findall(r"^\| ([a-z ,-]+) \|", readme, re.MULTILINE) for name in cells.split(",")
    }
    for column in (*_COLUMNS, *_of_pairs("gain"), *_of_answers("gain")):
        assert column.meaning or column.name in named, column.name


def test_stage_lines_fit_and_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    why = "filter.threshold (threshold 0.0 -> 0.5, seed 1 -> 2, prompts.texts changed), stage 12 of 54"
    for label in ("rest/digits/iter=1/step=1/kept", "dpo/a-long-name-of-an-experiment/held-out-read", "x"):
        with Stage(label, why) as stage:
            stage.done("8,192 rows, 1,024 set aside")
    printed = capsys.readouterr().err
    assert widest(printed) <= 80
    assert " ".join(printed.split()).count(why) == 3
    assert labelled("x", "1 row") == f"{'x':<34} 1 row"


def test_a_stage_that_gets_nowhere_says_so_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cli.console._SLOW", 0.0)
    with Stage("x", "io.jsonl") as stage:
        for rows in (0, 0, 0, 512):
            stage.move(str(Progress("io.jsonl", rows, None, 1.0)))
    lines = [line.split(maxsplit=1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["io.jsonl", "io.jsonl: starting, no row is done yet", "io.jsonl: 512 rows, 512 rows/s"]


def test_in_a_notebook_stages_are_no_faults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook paints what comes on stderr red."""
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", stream)
    with Stage("x", "io.jsonl") as stage:
        stage.done("512 rows")
    assert stream.getvalue() == ""
    assert " ".join(capsys.readouterr().out.split()) == "x io.jsonl x 512 rows, 0.0 s"


def test_a_note_never_stands_behind_the_moving_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a terminal, drawn on a screen of one's own: a carriage return, a line that is cleared."""
    monkeypatch.setattr("pipelines.cli.console._FAST", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    label = "rest/my-model+my_reward-score/iter=1/samples"
    with Stage(label, "io.jsonl") as stage:
        for note in (lambda: say_of("raw3", "note: left out: output"), lambda: say("x"), lambda: stage.done("2 rows")):
            stage.move(f"generate.complete: 2 of 2 rows, {note!r}"[:46])
            stage.move("generate.complete: 2 of 2 rows, 1 rows/s, 0 s left")
            note()
    screen = [line.split("\r")[-1].removeprefix("\033[K") for line in capsys.readouterr().err.split("\n")]
    assert [line.split()[0] for line in screen if line] == [label, "raw3", "x", label]


def test_a_moving_line_shows_its_counter_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cli.console._FAST", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    counter = "generate.complete: 2 of 2 rows, 1 rows/s, 0 s left"
    for label in ("rest/my-model+my_reward-score/iter=1/samples", "x"):
        with Stage(label, "generate.complete") as stage:
            stage.move(counter)
        line = next(part for part in capsys.readouterr().err.split("\r") if counter in part)
        assert len(line) < 80 and line.split()[0].endswith(label[-20:])


def test_a_stage_says_its_own_time(capsys: pytest.CaptureFixture[str]) -> None:
    for label, seconds in (("long", 0.4), ("short", 0.0)):
        with Stage(label, "toy.count") as stage:
            time.sleep(seconds)
            stage.done("1 row")
    taken = dict(re.findall(r"^(\w+) +1 row, (\d+\.\d) s$", capsys.readouterr().err, re.MULTILINE))
    assert float(taken["long"]) >= 0.4 > float(taken["short"])


def test_an_error_fits_and_its_command_pastes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        sys.executable,
        "-c",
        "import sys; print(sys.argv[1:])",
        *(f"--flag-{n} 'value number {n}'" for n in range(9)),
    ]
    command = "python -c 'import sys; print(sys.argv[1:])' " + " ".join(words[3:])
    error = DataError(
        "schema", "rows of kind rewarded cannot be read: " + "no column input_ids; " * 9, expected="tokens " * 30,
        found="rewarded " * 20, where="train/rows", kept="nothing was started", next=command,
    )  # fmt: skip
    say_error(error)
    printed = capsys.readouterr().err
    assert widest(printed) <= 80
    pasted = printed.split("  next: ")[1]
    done = subprocess.run(
        ["sh", "-c", pasted], env=environment(), capture_output=True, text=True, check=True, cwd=tmp_path
    )
    wanted = [part for n in range(9) for part in (f"--flag-{n}", f"value number {n}")]
    assert done.stdout == f"{wanted}\n"
    for field in (error.expected, error.found, error.what):
        assert " ".join(field.split()) in " ".join(printed.split())


def test_what_fits_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say_error(ConfigError("x", "short", expected="one", found="two", kept="all", next="quiver ops"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "  expected: one   found: two" and lines[-1].endswith("quiver ops") and len(lines) == 4
    sentence = "look at what lies there, " * 8
    assert "\\" not in terminal.next_line(sentence) and widest(terminal.next_line(sentence)) <= 80


def test_a_whole_run_fits(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {n}.", "response": f"{n}", "reward": n % 3} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for predicate, last in (("reward > 0", "20 rows, 10 set aside"), ("reward > 9", "no row is left of 30 rows")):
        params = json.dumps({"predicate": predicate})
        command = ("Filter", "--data", "rows.jsonl", "--op", "where", "--params", params)
        done = luigi(tmp_path, *command, module="pipelines", COLUMNS="80")
        assert done.returncode == 0 and last in " ".join(done.stderr.split()), done.stderr
        assert widest(done.stderr) <= 80
        assert f"{tmp_path}/quiver-data/filter/rows-" in done.stdout
