"""What to do about a file's rows, in the flags that the command has for that file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from luigi.cmdline_parser import CmdlineParser
from small_model import write

from datakit.io import Jsonl
from pipelines.cli.file_flags import of_file
from pipelines.cli.flag_words import parameters_of
from pipelines.cli.known_commands import commands
from pipelines.runtime import command

GIVEN = """--columns '{"prompt": "question"}'"""
COMMANDS = [
    ("Import --files {}", "--columns"),
    ("Filter --op not_null --data {}", "--columns"),
    ("Generate --model m --prompts {}", "--columns"),
    ("Sft --model m --data {}", "--columns"),
    ("Sft --model m --data x --eval-data {}", "--columns"),
    ("RestIteration --setup own --own-prompts {}", "--own-columns"),
    ("SpinIteration --setup own --own-prompts x --own-original {}", "--own-original-columns"),
    ("DpoIteration --setup preferences --preferences-files '[\"{}\"]'", "--preferences-columns"),
    ("DecisionTransformer --model m --data x --reward m --pairs {}", "--pairs-columns"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm.jsonl").write_text(json.dumps({"question": "2 + 3?", "answer": "5"}) + "\n")


@pytest.mark.parametrize("place", ["gsm.jsonl", "./gsm.jsonl", "gs*.jsonl"])
@pytest.mark.parametrize(("words", "flag"), COMMANDS)
def test_the_flag_is_that_of_the_file(words: str, flag: str, place: str) -> None:
    name, *flags = shlex.split(words.format(place))
    read = Jsonl(files=("gsm.jsonl",), format="prompts")
    with CmdlineParser.global_instance([name, *flags]) as parser:
        task = parser.get_task_obj()
        repaired = of_file(task, read, GIVEN)
        assert repaired == GIVEN.replace("--columns", flag)
        assert flag[2:].replace("-", "_") in parameters_of(name)
        assert of_file(task, read, "--quiver-max-rejected 1") == "--quiver-max-rejected 1"


def test_every_flag_that_renames_keys_is_one_of_these() -> None:
    flags = {flag for name in commands() for flag in parameters_of(name) if flag.split("_")[-1] == "columns"}
    assert flags == {flag[2:].replace("-", "_") for _, flag in COMMANDS}


def test_names_that_were_given_stay_and_a_flag_that_the_command_lacks_is_one_of_an_import() -> None:
    read = Jsonl(files=("gsm.jsonl",), format="completions", columns=(("response", "answer"),))
    with CmdlineParser.global_instance(["RestIteration", "--setup", "own", "--own-prompts", "gsm.jsonl"]) as parser:
        task = parser.get_task_obj()
        renamed = shlex.split(of_file(task, read, GIVEN))
        ignored = shlex.split(of_file(task, read, "--ignore 'a b'"))
    assert renamed[0] == "--own-columns" and json.loads(renamed[1]) == {"prompt": "question", "response": "answer"}
    assert ignored[3:8] == ["Import", "--files", "gsm.jsonl", "--format", "completions"]
    assert ignored[8:] == ["--columns", '{"response": "answer"}', "--ignore", "a b"]


def test_a_command_that_reads_a_file_of_a_setup_ends_in_the_flag_of_that_setup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    write(tmp_path / "m")
    (tmp_path / "judge.py").write_text("def score(response):\n    return [0.0] * len(response)\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = "--setup own --own-model m --own-reward judge:score --own-prompts gsm.jsonl --own-max-new-tokens 8"
    with pytest.raises(SystemExit) as ended:
        command.run(["RestIteration", *shlex.split(own)])
    printed = capfd.readouterr().err
    assert ended.value.code == 10 and "error[10/missing-key]" in printed, printed
    assert printed.rstrip().endswith(f""" {own} --own-columns '{{"prompt": "question"}}'"""), printed


@pytest.mark.parametrize(
    ("words", "repaired"),
    [
        ("Import --files {}", "--format kto_labels"),
        ("Filter --op not_null --data {}", "--format kto_labels"),
        ("DpoIteration --setup preferences --preferences-files '[\"{}\"]'", "--preferences-columns"),
    ],
)
def test_a_format_that_reads_the_file_is_said_before_a_key_that_only_a_person_knows(words: str, repaired: str) -> None:
    Path("judged.jsonl").write_text(json.dumps({"prompt": "q", "response": "a", "label": True}) + "\n")
    read = Jsonl(files=("judged.jsonl",), format="preferences")
    name, *flags = shlex.split(words.format("judged.jsonl"))
    with CmdlineParser.global_instance([name, *flags]) as parser:
        repaired_flag = of_file(parser.get_task_obj(), read, """--columns '{"chosen": "KEY", "rejected": "label"}'""")
    assert repaired_flag.startswith(repaired), repaired_flag


def test_a_file_of_which_no_row_is_read_is_in_another_format(tmp_path: Path) -> None:
    dialogue = "\n\nHuman: hi\n\nAssistant: "
    (tmp_path / "hh.jsonl").write_text(json.dumps({"chosen": f"{dialogue}hello", "rejected": f"{dialogue}no"}) + "\n")
    asked, read = "quiver show hh.jsonl", Jsonl(files=("hh.jsonl",), format="preferences")
    with CmdlineParser.global_instance(["Import", "--files", "hh.jsonl", "--format", "preferences"]) as parser:
        assert of_file(parser.get_task_obj(), read, asked) == "--format hh"
    read = Jsonl(files=("gsm.jsonl",), format="hh")
    with CmdlineParser.global_instance(["Sft", "--model", "m", "--data", "gsm.jsonl"]) as parser:
        assert of_file(parser.get_task_obj(), read, "quiver show gsm.jsonl") == "quiver show gsm.jsonl"
