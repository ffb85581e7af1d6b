"""generate.converse: turns of an environment stand between answers, are not learnt, and end when they should."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import TOKENIZED_PROMPTS, Environment, PythonEnvironment, Sampling, Turn
from datakit.generate import Complete, Converse
from datakit.op import NOTHING, Context
from datakit.run.resource import Resource
from datakit.tokenize import Drawn
from schemas import PROMPTS
from schemas.errors import ConfigError, ServiceError
from tests.datakit.fakes import BOS, EOS, TEMPLATED, Example, letters

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<bot>' }}{{ m['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
USER, BOT = "<user>", "<bot>"


def spelt(text: str) -> list[int]:
    """Its tokens: control tokens first, letters else."""
    names, ids = {BOS: 0, EOS: 1, USER: 3, BOT: 4}, []
    while text:
        name = next((one for one in names if text.startswith(one)), text[0])
        ids.append(names.get(name, 6 + ord(name[0]) - 32))
        text = text[len(name) :]
    return ids


def asked(count: int = 5) -> pa.Table:
    """Prompts as the template writes them."""
    table = PROMPTS.example(count)
    turns = [[{"role": "user", "content": f"q{row}"}] for row in range(count)]
    at = table.schema.get_field_index("messages")
    table = table.set_column(at, "messages", pa.array(turns, PROMPTS["messages"].type))
    texts = [f"{BOS}{USER}q{row}{EOS}{BOT}" for row in range(count)]
    table = table.append_column("prompt", pa.array(texts, pa.string()))
    ids = pa.array([spelt(text) for text in texts], pa.list_(pa.int32()))
    return TEMPLATED.conform(table.append_column("prompt_ids", ids))


class Digits:
    """Draws a digit, which follows from the seed and from all it reads, and then the end."""

    def __init__(self, cut: bool = False, broken: int = 9) -> None:
        self.cut, self.broken, self.read = cut, broken, list[list[int]]()

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: np.ndarray) -> pa.Table:
        made = []
        for row, (ids, seed) in enumerate(zip(rows["prompt_ids"].to_pylist(), seeds.tolist(), strict=True)):
            self.read.append(ids)
            if ids.count(BOT_ID) > 1 and ids[3] == spelt(str(self.broken)[-1])[0]:
                raise RuntimeError("out of order")
            for index in range(sampling.samples_per_prompt):
                digit = str((sum(ids) + seed + 7 * index) % 10)
                drawn = spelt(digit) if self.cut else spelt(digit + EOS)
                made.append({
                    "prompt_row": row, "sample_index": index, "response_ids": drawn, "response": digit,
                    "logprobs": [-0.5] * len(drawn), "finish_reason": "length" if self.cut else "stop", "error": None,
                })  # fmt: skip
        return pa.Table.from_pylist(made)


BOT_ID = spelt(BOT)[0]


class Higher:
    """Says "more" to a digit below `goal`, and ends with a reward of 1 elsewhere."""

    takes = NOTHING

    def __init__(self, goal: int = 7, content: str = "more") -> None:
        self.goal, self.content, self.heard = goal, content, list[Any]()

    def reply(self, conversations: Sequence[Sequence[Mapping[str, str]]], rows: pa.Table) -> list[Turn]:
        self.heard += conversations
        low = [int(turns[-1]["content"]) < self.goal for turns in conversations]
        return [Turn(content=self.content, reward=-0.25) if one else Turn(reward=1.0) for one in low]


def resources(generator: Any = Digits, environment: Any = Higher) -> dict[str, Resource]:
    given = {
        "generator": Resource("digits", generator, TOKENIZED_PROMPTS),
        "environment": Resource("higher", environment),
    }
    return {**given, "tokenizer": Resource("letters", functools.partial(letters, TEMPLATE))}


TWICE = Sampling(samples_per_prompt=2, max_new_tokens=2)
EXAMPLES = [Example(Converse(sampling=TWICE, rows_per_chunk=2), (asked(),), resources())]


def talked(rows: pa.Table | None = None, generator: Any = None, environment: Any = None, **settings: Any) -> Any:
    """What comes of `rows`, in one chunk."""
    given = {"generator": generator or Digits(), "environment": environment or Higher()}
    op = Converse(sampling=TWICE, **settings)
    keys = {"generator": "digits", "environment": "higher"}
    ctx = Context(seed=3, resources={**given, "tokenizer": letters(TEMPLATE)}, keys=keys)
    return op.expand(asked() if rows is None else rows, ctx)


def test_a_conversation_is_the_text_that_the_template_writes_of_it() -> None:
    """Prompt and tokens behind it, held against the whole conversation as a string that is written here."""
    generator, environment = Digits(), Higher()
    rows = talked(generator=generator, environment=environment).rows.to_pylist()
    assert isinstance(environment, Environment) and len(rows) == 10 and max(row["turns"] for row in rows) > 2
    for row in rows:
        turns = [*row["messages"], {"role": "assistant", "content": row["response"]}]
        names = {"user": USER, "assistant": BOT}
        text = BOS + "".join(f"{names[turn['role']]}{turn['content']}{EOS}" for turn in turns)
        assert row["prompt_ids"] + row["response_ids"] == spelt(text)
        drawn = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        assert len(drawn) == row["turns"]
        between = spelt(f"{USER}more{EOS}{BOT}")
        assert row["response_mask"] == [1, 1, *([0] * len(between) + [1, 1]) * (len(drawn) - 1)]
        assert row["logprobs"] == [-0.5 * one for one in row["response_mask"]]
        assert row["reward"] == 1.0 - 0.25 * (len(drawn) - 1) or row["conversation_end"] == "turns"
        assert row["conversation_end"] == ("environment" if int(drawn[-1]) >= 7 else "turns")
    whole = {tuple(row["prompt_ids"] + row["response_ids"]) for row in rows}
    assert all(any(list(one[: len(ids)]) == ids for one in whole) for ids in generator.read), "what was drawn is kept"


def test_an_answer_depends_on_its_own_conversation_alone() -> None:
    whole = {row["sample_id"]: row for row in talked().rows.to_pylist()}
    for at in range(5):
        for row in talked(asked().slice(at, 1)).rows.to_pylist():
            assert row == whole[row["sample_id"]]
    others = [talked(max_turns=3), talked(max_length=40), talked(template="chatml")]
    names = [one for made in others for one in made.rows["sample_id"].to_pylist()]
    assert len({*names, *whole}) == 4 * len(whole)


@pytest.mark.parametrize(
    ("settings", "generator", "end"),
    [
        ({"max_turns": 1}, Digits(), "turns"),
        ({"max_length": 17}, Digits(), "length"),
        ({}, Digits(cut=True), "cut"),
    ],
)
def test_a_conversation_ends_at_its_limits(settings: dict[str, Any], generator: Digits, end: str) -> None:
    """No digit ends it; 6 tokens of a prompt, 2 of an answer, 7 of the next turn, 2 of an answer: 17."""
    rows = talked(generator=generator, environment=Higher(goal=10), **settings).rows.to_pylist()
    assert {row["conversation_end"] for row in rows} == {end}
    turns = 2 if end == "length" else 1
    assert {(row["turns"], row["reward"]) for row in rows} == {(turns, -0.25 * turns)}, "the last answer earned, too"


def test_a_conversation_that_cannot_go_on_is_set_aside() -> None:
    made = talked(generator=Digits(broken=1), environment=Higher(goal=10), max_turns=3)
    assert made.rejected["reason"].to_pylist() == ["no-answer"] * 2 and made.rows.num_rows == 8
    assert made.rejected["threshold"].to_pylist() == ["RuntimeError: out of order"] * 2
    template = TEMPLATE.replace(
        "{% for m", "{% if messages|length > 2 %}{{ raise_exception('no') }}{% endif %}{% for m"
    )
    op, keys = Converse(sampling=TWICE, template=template), {"generator": "digits", "environment": "higher"}
    given = {"generator": Digits(), "environment": Higher(goal=10), "tokenizer": letters(TEMPLATE)}
    refused = op.expand(asked(), Context(resources=given, keys=keys))
    assert {*refused.rejected["reason"].to_pylist()} == {"no-turn"} and refused.rows.num_rows == 0


def test_only_what_was_drawn_is_learnt(put: Any, tmp_path: Any) -> None:
    rows = apply(EXAMPLES[0].op, put(asked()), str(tmp_path / "a"), resources=resources(), processes=0)
    learnt = apply(Drawn(mask="response_mask"), rows, str(tmp_path / "b")).read().to_pylist()
    for row in learnt:
        assert row["input_ids"] == row["prompt_ids"] + row["response_ids"]
        assert row["loss_mask"] == [0] * len(row["prompt_ids"]) + row["response_mask"]
        assert row["drawn_logprobs"] == [0.0] * len(row["prompt_ids"]) + row["logprobs"]
    short = rows.read().to_pylist()
    short[0]["response_mask"], short[1]["response_mask"] = [1], [0] * len(short[1]["response_mask"])
    mended = rows.schema.conform(pa.Table.from_pylist(short, rows.schema.arrow))
    out = apply(Drawn(mask="response_mask"), put(mended, schema=rows.schema), str(tmp_path / "c"))
    assert out.read_rejected()["reason"].to_pylist() == ["column-length", "no-trained-token"]


def test_a_control_token_in_what_an_environment_says_is_text() -> None:
    rows = talked(environment=Higher(goal=10, content=f"{EOS}{BOT}9"), max_turns=2).rows.to_pylist()
    for row in rows:
        between = row["response_ids"][2:-2]
        assert between.count(BOT_ID) == 1 and between.count(1) == 1, "those that the template wrote"


def answering(value: Any) -> Any:
    """An environment that returns `value` of every conversation."""
    made = PythonEnvironment("json:loads", NOTHING)
    made._call = lambda conversations: [value] * len(conversations)  # type: ignore[method-assign]
    return made


RETURNED = [
    ("on", Turn("on")),
    (2, Turn(None, "user", 2.0)),
    (None, Turn()),
    ({"content": "seen", "role": "tool", "reward": -1}, Turn("seen", "tool", -1.0)),
    ({"reward": None}, Turn()),
]


@pytest.mark.parametrize(("value", "turn"), RETURNED)
def test_what_a_function_may_return(value: Any, turn: Turn) -> None:
    assert answering(value).reply([[{"role": "assistant", "content": "1"}]] * 2, pa.table({})) == [turn] * 2


@pytest.mark.parametrize(
    "value",
    [True, " ", ["on"], float("nan"), {"content": 3}, {"role": "assistant", "content": "a"}, {"text": "a"}, "\ud800"],
)
def test_what_is_no_turn_stops_the_work(value: Any) -> None:
    with pytest.raises(ServiceError, match="returned what is no turn for conversation 0 of the 1"):
        answering(value).reply([[{"role": "assistant", "content": "1"}]], pa.table({}))


@pytest.mark.parametrize("settings", [{"max_turns": 0}, {"max_length": 0}, {"reward": "response"}, {"reward": ""}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Converse(**settings)


def test_a_draw_of_one_answer_is_as_it_was() -> None:
    """`generate.complete` is what a conversation begins with: the same first answers."""
    plain = Complete(sampling=TWICE).expand(
        asked(), Context(seed=3, resources={"generator": Digits()}, keys={"generator": "digits"})
    )
    first = [row["response_ids"][:2] for row in talked().rows.to_pylist()]
    assert first == plain.rows["response_ids"].to_pylist()
