"""A file that a recipe's formats do not read: the command that does, which this test gives."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from small_model import write

from datakit.io import Jsonl
from pipelines.commands.unread_file import reason_and_next
from pipelines.recipes import Sft
from pipelines.runtime import command

FILES = {
    "gsm.jsonl": {"question": "2 + 3?", "answer": "5"},
    "pairs.jsonl": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "kto.jsonl": {"prompt": "a", "completion": "b", "label": True},
    "rows.jsonl": {"prompt": "a", "response": "b"},
    "asked.jsonl": {"prompt": "a", "answer": "b"},
}
RENAMED = '{"prompt": "question", "response": "answer"}'
EXPECTED = [
    ("Sft --model m --data gsm.jsonl", f"Sft --model m --data gsm.jsonl --columns '{RENAMED}'"),
    (
        """Sft --model m --data gsm.jsonl --columns '{"prompt": "question", "response": "answr"}'""",
        f"Sft --model m --data gsm.jsonl --columns '{RENAMED}'",
    ),
    ("Sft --model m --data asked.jsonl", """Sft --model m --data asked.jsonl --columns '{"response": "answer"}'"""),
    ("Sft --model m --data pairs.jsonl", "Preference --model m --data pairs.jsonl"),
    ("Preference --model m --data rows.jsonl", "Sft --model m --data rows.jsonl"),
    ("Sft --model m --data rows.jsonl --format messages", "Sft --model m --data rows.jsonl --format completions"),
    ("Preference --model m --data kto.jsonl --eval-share 0",
     "Preference --model m --data kto.jsonl --eval-share 0 --algorithm kto"),
    ("Sft --model m --data kto.jsonl", "Preference --model m --data kto.jsonl"),
    ("Sft --model m --data kto.jsonl --lr 1e-4 --algorithm sft --quiver-seed 3 --quiver-root there --set epochs=2",
     "Preference --model m --data kto.jsonl --lr 1e-4 --quiver-seed 3 --quiver-root there --set epochs=2"),
    ("Sft --model {here}/m --data {here}/kto.jsonl", "Preference --model {here}/m --data {here}/kto.jsonl"),
    ("Distill --model m --data rows.jsonl --template text",
     "Distill --model m --data rows.jsonl --template text --teacher FOLDER"),
    ("SpinIteration --setup own --own-model m",
     "SpinIteration --setup own --own-model m --own-prompts prompts.jsonl --own-original answers.jsonl"),
    ("DpoIteration --setup own --own-model m",
     "DpoIteration --setup own --own-model m --own-prompts prompts.jsonl --own-reward my_reward:score"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), EXPECTED)
def test_the_command_that_reads_the_file_is_named(
    given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    for name, record in FILES.items():
        (tmp_path / name).write_text(json.dumps(record) + "\n")
    write(tmp_path / "m")
    with pytest.raises(SystemExit) as ended:
        command.run(shlex.split(given.format(here=tmp_path) if "{here}" in given else given))
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and "..." not in printed.partition("next: ")[2]
    assert ("another command" in printed) == (given.split(maxsplit=1)[0] != expected.split(maxsplit=1)[0])
    assert printed.rstrip().endswith(f" {expected.format(here=tmp_path) if '{here}' in expected else expected}")


def test_the_reason_names_the_keys_that_are_there(tmp_path: Path) -> None:
    place = tmp_path / "gsm.jsonl"
    place.write_text(json.dumps(FILES["gsm.jsonl"]) + "\n")
    reason, next_ = reason_and_next(Sft, Jsonl(files=(str(place),), format="completions").pinned(), str(place))
    assert reason == "missing-key (prompt | input (there: question, answer))"
    assert shlex.split(next_) == ["--columns", RENAMED]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "{place} holds no record"),
        ("\n \n", "{place} holds no record"),
        ('{"prompt": "a" "response": "b"}', "broken-json (Expecting ',' delimiter) in rows.jsonl:1, byte 15"),
    ],
)
def test_a_file_that_is_empty_or_broken_is_told_as_such(tmp_path: Path, text: str, expected: str) -> None:
    place = tmp_path / "rows.jsonl"
    place.write_text(text)
    reason, next_ = reason_and_next(Sft, Jsonl(files=(str(place),), format="completions").pinned(), str(place))
    assert (reason, next_) == (expected.format(place=place), f"quiver show {place}")
