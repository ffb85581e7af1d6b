"""From files of judged answers to training, through the commands that docs/formats.md names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from commands import luigi

from datakit.apply import apply
from datakit.blend import Mismatch
from datakit.formats.dialogues import extra_id
from datakit.io import Jsonl
from datakit.label import Logprobs
from datakit.run.resource import Resource
from datakit.template import Chat
from datakit.tokenize import Mask, Sequences
from datakit.tokenize import Train as TrainTokenizer
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import ATTRIBUTED, ATTRIBUTED_TOKENS, FEEDBACK, FEEDBACK_TOKENS
from schemas.dataset import Dataset
from schemas.settings import parse
from trainers import engine
from trainers.config import Run
from trainers.engine.inference.frozen import open_scorer

JUDGED: list[tuple[str, str, list[float]]] = [
    ("What is rain?", "Water that falls.", [4, 1]),
    ("What is snow?", "Ice.", [2, -100]),
    ("What is hail?", "Balls of ice that fall from a cloud.", [3, 4]),
    ("What is fog?", "A cloud on the ground, in which nobody sees far.", [-100, 3.5]),
    ("What is dew?", "Drops on grass.", [1, 0]),
]
NETWORK = {
    "num_layers": 1,
    "hidden_size": 16,
    "ffn_hidden_size": 32,
    "num_attention_heads": 2,
    "num_query_groups": 1,
    "max_sequence_length": 256,
}

_MISMATCHED = ("mismatched_ids", "mismatched_mask", "ref_logprob_mismatched")


def made(folder: Path, *command: str) -> str:
    """Where the result of a command lies."""
    done = luigi(folder, *command, module="pipelines")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def transcript(question: str, answer: str) -> str:
    return f"<extra_id_0>System\nBe brief.\n<extra_id_1>User\n{question}\n<extra_id_1>Assistant\n{answer}\n<extra_id_2>"


@pytest.mark.slow
def test_judged_answers_become_a_reward_model(tmp_path: Path) -> None:
    lines = [{"text": transcript(question, answer), "label": label} for question, answer, label in JUDGED]
    (tmp_path / "judged.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = made(tmp_path, "Import", "--files", "judged.jsonl", "--format", "attributes")
    assert Dataset.open(rows).schema.names == ATTRIBUTED.names
    words = made(tmp_path, "Tokenize", "--data", rows, "--op", "train", "--params", '{"vocab_size": 280}')
    plain = ("--template", "plain")
    texts = made(tmp_path, "Template", "--data", rows, "--op", "chat", "--tokenizer", words, *plain)
    tokens = made(tmp_path, "Tokenize", "--data", texts, "--op", "encode", "--tokenizer", words)
    Dataset.open(tokens).schema.requires(ATTRIBUTED_TOKENS, "rm_regression")
    settings = {"attributes": ["helpful", "verbose"]}
    learning = {"settings": settings, "epochs": 1, "global_batch_size": 5, "optim": {"lr": 0.0, "warmup_steps": 0}}
    network = ("--architecture", json.dumps(NETWORK), "--tokenizer", words)
    train = ("Train", "--data", tokens, "--algorithm", "rm_regression", *network, "--learning")
    model = made(tmp_path, *train, json.dumps(learning))

    read = Dataset.open(tokens).read()
    scores = open_scorer(model).score(read.select(["input_ids"]))
    assert list(scores) == ["helpful", "verbose"]
    scores_NK = np.stack([scores[name].to_numpy() for name in scores], axis=1)
    by_answer = {answer: label for _, answer, label in JUDGED}
    labels_NK = np.array([by_answer[answer] for answer in read["response"].to_pylist()], dtype=float)
    judged_NK = labels_NK != -100
    squares = ((scores_NK - labels_NK) ** 2)[judged_NK]
    assert len(squares) == 8
    line = json.loads(Path(f"{model}.run/metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(squares.mean(), rel=1e-5)

    label = ("Label", "--data", rows, "--op", "reward", "--model", model, *plain)
    all_of_them = Dataset.open(made(tmp_path, *label)).read()
    one = Dataset.open(made(tmp_path, *label, "--params", '{"reads": "verbose"}')).read()
    for rated, column, name in ((all_of_them, "helpful", "helpful"), (all_of_them, "verbose", "verbose"),
                                (one, "reward", "verbose")):  # fmt: skip
        expected = dict(zip(read["sample_id"].to_pylist(), scores[name].to_pylist(), strict=True))
        rewards = dict(zip(rated["sample_id"].to_pylist(), rated[column].to_pylist(), strict=True))
        assert rewards == pytest.approx(expected)
    refused = luigi(tmp_path, *label, "--params", '{"reads": "reward"}', module="pipelines")
    assert refused.returncode == 2 and "the scorer gives no reward" in refused.stderr


def test_wanted_and_unwanted_answers_become_tokens(tmp_path: Path) -> None:
    lines = [
        {"prompt": "What is rain?", "completion": "Water.", "label": True},
        {"prompt": "What is snow?", "completion": "Sand.", "label": False},
    ]
    path = tmp_path / "kto.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = apply(Jsonl(files=(str(path),), format="kto_labels"), [], str(tmp_path / "rows"))
    assert rows.schema.names == FEEDBACK.names
    words = apply(TrainTokenizer(columns=("response",), vocab_size=280), rows, str(tmp_path / "words"))
    speaking = {"tokenizer": Resource("words", lambda: Tokenizer.of_dataset(words))}
    texts = apply(Chat(template="plain", response="response"), rows, str(tmp_path / "texts"), resources=speaking)
    tokens = apply(Mask(), texts, str(tmp_path / "tokens"), resources=speaking)
    tokens.schema.requires(FEEDBACK_TOKENS, "an algorithm over feedback")
    read = tokens.read().select(["response", "desirable", "loss_mask"]).to_pylist()
    assert {row["response"]: row["desirable"] for row in read} == {"Water.": True, "Sand.": False}
    assert all(sum(row["loss_mask"]) >= len(row["response"]) // 2 for row in read)


def test_wanted_and_unwanted_answers_become_a_policy(tmp_path: Path) -> None:
    """The reference is the first policy: no answer has gained anything, so each loses sigma(0) until it has learnt."""
    answers = [(f"What is {n} and {n}?", f"It is {n + n}.", n % 3 > 0) for n in range(12)]
    lines = [{"prompt": prompt, "completion": answer, "label": label} for prompt, answer, label in answers]
    path = tmp_path / "kto.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = apply(Jsonl(files=(str(path),), format="kto_labels"), [], str(tmp_path / "rows"))
    words = apply(TrainTokenizer(columns=("response",), vocab_size=280), rows, str(tmp_path / "words"))
    run = {"algorithm": "kto", "model": {**NETWORK, "vocab_size": 280}, "optim": {"lr": 0.01}, "max_steps": 3}
    with engine.open(parse(Run, {**run, "global_batch_size": 12, "out": str(tmp_path / "policy")})) as trainer:
        known = {
            "tokenizer": Resource("words", lambda: Tokenizer.of_dataset(words)),
            "model": Resource("first", trainer.token_model),
        }
        columns = (("input_ids", "loss_mask", "ref_logprob"), _MISMATCHED)
        for number, op in enumerate(
            (
                Mismatch(),
                Chat(template="plain", response="response", learn="last"),
                Mask(),
                Chat(template="plain", response="mismatched", learn="last", into="mismatched_pieces"),
                Sequences(names=("mismatched",)),
                Logprobs(columns=columns, per="row"),
            )
        ):
            rows = apply(op, rows, str(tmp_path / f"{number}"), resources={name: known[name] for name in op.needs})
        read = rows.read()
        figures = [trainer.learn(read) for _ in range(3)]
    assert all(row["mismatched"] != row["response"] for row in read.to_pylist())
    assert figures[0]["loss"] == pytest.approx(0.5, abs=1e-5) and figures[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert figures[2]["loss"] < 0.49 and figures[2]["reward_desirable"] > figures[2]["reward_undesirable"]


def test_the_kinds_of_judged_rows_hang_together() -> None:
    assert set(ATTRIBUTED_TOKENS.names) == {"sample_id", "input_ids", "attributes", "source"}
    assert set(FEEDBACK_TOKENS.names) == {"sample_id", "input_ids", "loss_mask", "desirable", "source"}
    for one, other in ((ATTRIBUTED, ATTRIBUTED_TOKENS), (FEEDBACK, FEEDBACK_TOKENS)):
        assert one.key == other.key == ("sample_id",)
        judgement = (set(one.names) & set(other.names)) - {"sample_id", "source"}
        assert len(judgement) == 1 and pa.types.is_null(one[judgement.pop()].type) is False


@pytest.mark.parametrize("end", ["", "\n<extra_id_2>", "\n<extra_id_1>"])
def test_a_mark_at_the_end_is_no_content(end: str) -> None:
    text = transcript("What is rain?", "Water <extra_id_2> falls.").removesuffix("\n<extra_id_2>") + end
    assert extra_id(text) == [
        ("system", "Be brief."),
        ("user", "What is rain?"),
        ("assistant", "Water <extra_id_2> falls."),
    ]
