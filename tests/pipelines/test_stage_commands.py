"""Stages as commands: what one makes the next one reads, and what is missing is said with the command that makes it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from commands import luigi

from datakit.formats.forms import FORMS
from datakit.registry import op_of
from pipelines.commands import stages
from pipelines.graph.backend import roles_of
from pipelines.graph.made_by import UNKNOWN, Maker, in_format, makers, over_rows, without_nulls
from pipelines.graph.nodes import Existing
from pipelines.graph.plan import _require
from schemas import COMPLETIONS, Column, Schema
from schemas.dataset import Dataset
from schemas.errors import DataError
from schemas.store.commit import read_manifest
from tests.trainers.weights import tiny
from trainers.algorithm import Algorithm
from trainers.registry import algorithm_of, algorithms

PLAIN = {"template": "plain"}


@pytest.mark.parametrize("maker", makers(), ids=lambda maker: maker.command())
def test_the_command_that_an_error_names_makes_the_columns(maker: Maker) -> None:
    words = shlex.split(maker.command())
    if words[0] == "quiver":
        assert words[:2] == ["quiver", "formats"] and maker.adds == {*FORMS[words[2]].schema.names}
        return
    stage, words = words[3], words[4:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    op = op_of(f"{getattr(stages, stage).family}.{options['--op']}", json.loads(options.get("--params", "{}")))
    assert maker.adds <= {*op.gives(op.takes).names} and maker.takes == {*op.takes.names}
    assert ("tokenizer" in op.needs) is ("--tokenizer" in options)
    assert bool(roles_of(op)) is ("--model" in options)


IDS_AND_MASKS = [f"{side}_{part}" for side in ("chosen", "rejected") for part in ("ids", "mask")]
WANTED, MISMATCHED = ["input_ids", "loss_mask", "desirable"], ["mismatched_ids", "mismatched_mask"]
GAINED = """--params '{"per": "row", "columns": [["input_ids", "loss_mask", "ref_logprob"], """
GAINED += """["mismatched_ids", "mismatched_mask", "ref_logprob_mismatched"]]}'"""
REFERENCE = """--params '{"per": "row", "columns": [["chosen_ids", "chosen_mask", "ref_logprob_chosen"], \
["rejected_ids", "rejected_mask", "ref_logprob_rejected"]]}' --data rows"""


@pytest.mark.parametrize(
    ("algorithm", "rows", "command"),
    [
        ("kd", ["messages", "response"], "Template --op chat --tokenizer CHECKPOINT --data rows"),
        ("kd", ["sample_id", "pieces"], "Tokenize --op mask --tokenizer CHECKPOINT --data rows"),
        ("kd", ["input_ids", "loss_mask"], "Label --op topk --model CHECKPOINT --data rows"),
        ("rm_regression", ["input_ids"], "Label --op attributes --model CHECKPOINT --data rows"),
        (
            "rpo",
            [*IDS_AND_MASKS, "ref_logprob_chosen", "ref_logprob_rejected"],
            "quiver formats preferences",
        ),
        ("dpo", IDS_AND_MASKS, f"Label --op logprobs --model CHECKPOINT {REFERENCE}"),
        ("dpo", ["chosen_pieces", "rejected_pieces"], "Tokenize --op sequences --tokenizer CHECKPOINT --data rows"),
        ("sft", COMPLETIONS.names, "Template --op chat --tokenizer CHECKPOINT --data rows"),
        ("kto", ["sample_id", "prompt_id", "response", *WANTED], "Blend --op mismatch --data rows"),
        ("kto", [*WANTED, *MISMATCHED], f"Label --op logprobs --model CHECKPOINT {GAINED} --data rows"),
    ],
)
def test_rows_that_an_algorithm_cannot_eat_are_refused_with_the_next_command(
    algorithm: str, rows: list[str], command: str
) -> None:
    given = Schema("rows", 1, tuple(Column(name, pa.string(), "given") for name in rows))
    learns = algorithm_of(algorithm)
    missing = [name for name in learns.reads(learns.rows).names if name not in rows]
    printed = over_rows(missing, given, "--data rows") or in_format(missing, given)
    assert printed.removeprefix("luigi --module pipelines ") == command
    assert over_rows(["nobody_makes_it"], given, "--data rows") == in_format(["nobody_makes_it"], given) == ""


REFERRED = {name: algorithm for name, algorithm in algorithms().items() if algorithm.references}


@pytest.mark.parametrize("algorithm", REFERRED.values(), ids=list(REFERRED))
def test_what_an_algorithm_reads_of_a_reference_is_made_by_the_question_that_it_declares(algorithm: Algorithm) -> None:
    """Whichever algorithm it is: no operation holds a list of them."""
    given = [column for column in algorithm.rows.columns if column.name not in algorithm.references]
    command = over_rows(algorithm.references, Schema("rows", 1, tuple(given)), "--data rows")
    asked = [[one.ids, one.mask, one.reference] for one in algorithm.sequences]
    params = json.dumps({"per": "row", "columns": asked})
    assert command == f"luigi --module pipelines Label --op logprobs --model CHECKPOINT --params '{params}' --data rows"


@pytest.mark.parametrize("algorithm", ["rpo", "rm_margin"])
def test_rows_that_may_be_null_are_refused_with_the_command_that_makes_them_sure(
    algorithm: str, tmp_path: Path
) -> None:
    needed = algorithm_of(algorithm).rows
    unsure = (replace(one, nullable=one.name.endswith("_reward")) for one in needed.columns)
    given = replace(needed, columns=tuple(unsure))
    stage, *words = shlex.split(without_nulls(needed, given, "--data rows"))[3:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert (stage, options["--op"], options["--data"]) == ("Filter", "not_null", "rows")
    op_of("filter.not_null", json.loads(options["--params"])).gives(given).requires(needed, algorithm)
    rows = Dataset.from_arrow(given.example(3), given, str(tmp_path / "rows"))
    with pytest.raises(DataError, match="chosen_reward may be null; rejected_reward may be null") as fault:
        _require(
            Existing(label="rows", place=rows.url, existing_manifest=rows.manifest, root=str(tmp_path)),
            needed,
            algorithm,
            UNKNOWN,
        )
    assert fault.value.next.startswith("luigi --module pipelines Filter --op not_null ")
    assert without_nulls(needed, needed, "--data rows") == ""


def made(folder: Path, *command: str) -> Dataset:
    """The dataset that a command makes."""
    done = luigi(folder, *command, module="pipelines")
    assert done.returncode == 0, done.stderr
    return Dataset.open(done.stdout.split()[-1])


def test_own_rows_become_tokens_by_following_the_errors(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "response": f"It is {n}."} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = made(tmp_path, "Import", "--files", "rows.jsonl", "--format", "completions")
    tokenizer = made(tmp_path, "Tokenize", "--data", read.url, "--op", "train", "--params", '{"vocab_size": 280}')
    speaking = ("--tokenizer", tokenizer.url)

    done = luigi(tmp_path, "Tokenize", "--data", read.url, "--op", "mask", *speaking, module="pipelines")
    stderr = f"  next: luigi --module pipelines Template --op chat --tokenizer {tokenizer.url} --data {read.url}\n"
    assert done.returncode == 10 and done.stderr.endswith(stderr)

    chat = ("Template", "--data", read.url, "--op", "chat", *speaking, "--params")
    texts = made(tmp_path, *chat, json.dumps(PLAIN))
    tokens = made(tmp_path, "Tokenize", "--data", texts.url, "--op", "mask", *speaking).read()
    assert tokens.num_rows == 12 and all(sum(mask) for mask in tokens["loss_mask"].to_pylist())
    answered = zip(tokens["text"].to_pylist(), tokens["response"].to_pylist(), strict=True)
    assert all(response in text for text, response in answered)

    questions = made(tmp_path, *chat, json.dumps({**PLAIN, "response": None})).read()
    assert not any("It is" in text for text in questions["text"].to_pylist())


@pytest.mark.slow
def test_a_template_that_closes_no_turn_is_reported_with_its_share(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    open_ended = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    folder = tiny.write("llama", tmp_path / "hf")
    closed = "{% for m in messages %}{{ m.content }} w7 {% endfor %}"
    added = {"7": {"content": "w7", "special": True}}
    settings = {"eos_token": "w1", "chat_template": closed, "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = [{"prompt": f"w{n}", "response": f"w{n + 1}"} for n in range(8, 12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    adopted = luigi(tmp_path, "AdoptModel", "--folder", "hf", module="pipelines")
    assert adopted.returncode == 0, adopted.stderr
    assert "the chat template names w7; each of them ends an answer" in adopted.stderr
    policy = adopted.stdout.split()[-1]
    manifest = read_manifest(policy)
    assert manifest is not None and manifest.facts["turn_end"] == {"tokens": ["w7"], "texts": []}

    chat = ("Template", "--data", "rows.jsonl", "--op", "chat", "--tokenizer", policy)
    stderr = luigi(tmp_path, *chat, "--template", open_ended, module="pipelines").stderr
    assert stderr.count("no trained part ends in an end token in 4 of 4 rows (100%)") == 1
    assert stderr.count("answers end at the text \\n\\nuser:") == 1
