"""The command `quiver`, as a program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import quiver
from datakit.formats.forms import FORMS
from datakit.registry import OPS
from quiver import console, inventory
from quiver.command import Command
from schemas import TOKENS, Dataset, Schema
from schemas.errors import ConfigError
from tests.faults.writers import write
from tests.quiver.answers import answer
from trainers.registry import algorithms

SCRIPT = Path(sys.executable).with_name("quiver")


def first_words(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]


def test_the_lists_name_what_the_registries_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert first_words(answer(capsys, "ops")) == list(OPS)
    assert first_words(answer(capsys, "formats")) == list(FORMS)
    named = [name for algorithm in algorithms().values() for name in (algorithm.name, *algorithm.presets)]
    assert first_words(answer(capsys, "algorithms")) == named


def test_the_recipes_are_those_of_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines import recipes

    names = first_words(answer(capsys, "recipes"))
    assert names == [name for name, value in vars(recipes).items() if isinstance(value, type)]
    assert all(about for _, _, about in inventory.recipes())


def test_one_operation_with_its_settings_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "ops", "label.length")
    assert '  unit    characters / words / tokens; default "characters"' in text
    assert "  response_characters  int64: characters of response" in text


@pytest.mark.parametrize("name", FORMS)
def test_one_format_with_its_keys_and_columns(capsys: pytest.CaptureFixture[str], name: str) -> None:
    form, lines = FORMS[name], answer(capsys, "formats", name).splitlines()
    assert lines[0] == name and lines[-1] == f"As a command: quiver Import --format {name} --files FILE"
    named = {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}
    assert named == {key.name for key in form.keys} | set(form.schema.names)


def test_one_algorithm_with_its_settings_and_rows(capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "algorithms", "dpo")
    assert "  beta  " in text and "  ref_logprob_chosen  " in text and "Reports loss, preference_loss" in text
    assert "number; default 0.2, of recipes 0.1\n" in text
    assert "number; default 0.1\n" in answer(capsys, "algorithms", "spin")
    preset = answer(capsys, "algorithms", "cdpo")
    assert preset.startswith("cdpo\n\ndpo with label_smoothing ") and "--algorithm cdpo" in preset
    for name, algorithm in algorithms().items():
        assert all(f"\n  {column}" in answer(capsys, "algorithms", name) for column in algorithm.rows.names)


@pytest.mark.parametrize(("name", "command"), console.COMMANDS.items(), ids=list(console.COMMANDS))
def test_a_command_is_one_entry(capsys: pytest.CaptureFixture[str], name: str, command: Command) -> None:
    """Its name, usage, flags and help agree, whoever added it; other flags are refused with the usage."""
    assert command.call == f"quiver {name}" and command.meaning
    assert re.findall(r"--[a-z-]+(?: [A-Z]\S*?(?=]| |$))?", command.usage) == list(command.flags)
    text = " ".join(answer(capsys, name, "--help").split())
    assert all(part in text for part in (command.usage, command.meaning, *command.flags, *command.flags.values()))
    with pytest.raises(ConfigError, match=r"has no flag --no-such-flag|other words") as fault:
        console.run([name, "--no-such-flag", "x", "y"])
    assert fault.value.expected == command.usage
    assert any(line.strip().startswith(command.short) for line in answer(capsys, "--help").splitlines())


def test_a_dataset_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(str(tmp_path / "d"))
    text = answer(capsys, "show", str(tmp_path / "d"))
    assert text.startswith(repr(Dataset.open(str(tmp_path / "d"))))


@pytest.mark.parametrize(
    "words", ["opps", "ops label.lenght", "ops a b", "show", "formats x", "algorithms x", "formats a b", "-x"]
)
def test_what_there_is_not_is_an_error_with_a_next_step(words: str) -> None:
    with pytest.raises(ConfigError) as fault:
        console.run(words.split())
    assert fault.value.code == 2 and (fault.value.next or fault.value.expected)


def test_a_list_takes_less_than_a_second_and_loads_neither_luigi_nor_torch() -> None:
    code = (
        "import sys; sys.argv = ['quiver']; from quiver import console\n"
        "for word in ('ops', 'formats', 'algorithms', 'recipes', '--version', '--help'): console.run([word])\n"
        "print('LOADED', *[name for name in ('luigi', 'torch', 'megatron', 'polars', 'duckdb') if name in sys.modules])"
    )
    code += "; import os; print(sum(os.times()[:2]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    loaded, seconds = done.stdout.splitlines()[-2:]
    assert loaded == "LOADED"
    assert float(seconds) < 1.0, "processor time, which other work beside this does not change"


def test_the_script_and_its_exit_codes(tmp_path: Path) -> None:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert call("--version").stdout == f"quiver {quiver.__version__}\n"
    unknown = call("opss")
    assert unknown.returncode == 2 and unknown.stdout == "" and "did you mean ops?" in unknown.stderr
    gone = call("show", str(tmp_path / "nothing"))
    assert gone.returncode == 11 and "Traceback" not in gone.stderr
    task = call("RestIteration", "--thresholds", "no list")
    assert task.returncode == 2 and "error[2/" in task.stderr and "Traceback" not in task.stderr


def test_rows_are_exported_and_the_formats_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datakit.formats.exports import EXPORTS
    from schemas import MESSAGES, PROMPTS

    assert first_words(answer(capsys, "export")) == list(EXPORTS)
    table = pa.table(
        {
            "prompt_id": pa.array(["a"]),
            "messages": pa.array([[{"role": "user", "content": "2 + 3?"}]], MESSAGES),
            "tools": pa.array([None], pa.string()),
            "answer": pa.array(["5"]),
            "source": pa.array([None], pa.string()),
        }
    )
    made = Dataset.from_arrow(table, PROMPTS, str(tmp_path / "d"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "50")
    text = answer(capsys, "export", made.url, "--to", "trl.prompt-only-text", "--out=narrow.jsonl")
    assert max(map(len, text.splitlines())) <= 50
    monkeypatch.setenv("COLUMNS", "1000")
    text = answer(capsys, "export", made.url, "--to", "trl.prompt-only-text", f"--out={tmp_path / 'rows.jsonl'}")
    assert text.startswith("1 row in") and (tmp_path / "rows.jsonl").read_text() == '{"prompt":"2 + 3?","answer":"5"}\n'
    for words in (
        f"export {made.url} --to trl",
        "export a --to",
        "export a --up b",
        f"export {made.url} x --to a --out b",
    ):
        with pytest.raises(ConfigError, match=r"other words|has no flag --up"):
            console.run(words.split())


def test_masks_are_shown_without_colour_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.datakit.fakes import pieces

    table = pieces(5)
    made = Dataset.from_arrow(table, Schema.of_arrow(table.schema), str(tmp_path / "d"))
    text = answer(capsys, "show", made.url, "--mask", "--rows", "2")
    assert text.count("[[answer") == 2 and "question 1[[answer 1]]" in text and "\x1b" not in text
    other, twice, near = "other words", "is given --mask twice", r"has no flag --masks \(did you mean --mask\?\)"
    for words, what in (("--rows x", other), ("--mask --rows x", other), ("--mask --mask", twice), ("--masks", near)):
        with pytest.raises(ConfigError, match=what):
            console.run(["show", made.url, *words.split()])


def test_an_error_about_a_flag_ends_in_the_whole_command(tmp_path: Path) -> None:
    schema = TOKENS.selecting("input_ids", "loss_mask")
    table = pa.table({"input_ids": [[1, 2]], "loss_mask": [[0, 1]]}, schema.arrow)
    place = Dataset.from_arrow(table, schema, str(tmp_path / "token rows")).url
    with pytest.raises(ConfigError, match="no-tokenizer") as caught:
        console.run(["show", place, "--mask", "--rows", "2"])
    assert caught.value.next == f"quiver show '{place}' --mask --rows=2 --tokenizer FOLDER"
