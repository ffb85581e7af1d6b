"""Rows in ids of one tokenizer never meet another, column by column, whatever stands between."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.blend import Mix
from datakit.clients import TOKENIZED_PROMPTS
from datakit.generate import Complete
from datakit.label import Reward
from datakit.run.resource import Resource
from datakit.sql import Query
from datakit.template import Chat, RewardPrompt
from datakit.tokenize import Encode, Mask, Pack
from schemas import COMPLETIONS, IDS, PROMPTS, Column, Schema, tokenizer_lineage
from schemas.dataset import Dataset
from schemas.errors import DataError
from tests.datakit.fakes import EchoGenerator, LengthScorer, small_tokenizer

Run = Callable[..., Dataset]
SCORED = Schema("scored", 1, (Column("input_ids", IDS, "tokens"),))


def loaded(name: str) -> dict[str, Resource]:
    return {"tokenizer": Resource(f"key of {name}", small_tokenizer, tokenizer_id=name)}


@pytest.fixture
def run(put: Callable[..., Dataset], tmp_path: Path) -> Run:
    """`run(op, inputs, **resources)`; a table stands for a dataset of it."""
    count = iter(range(100))

    def work(op: Any, *inputs: Any, **resources: Resource) -> Dataset:
        given = [put(one) if isinstance(one, pa.Table) else one for one in inputs]
        return apply(op, given, str(tmp_path / str(next(count))), resources=resources)

    return work


def tokenizers_in(dataset: Dataset) -> Any:
    return dataset.facts.get("tokenizer")


def test_pieces_are_encoded_by_the_tokenizer_they_were_templated_for(run: Run) -> None:
    pieces = run(Chat(generation=True), PROMPTS.example(4), **loaded("a"))
    assert tokenizers_in(pieces) == "a"
    encode = Encode(columns=(("pieces", "prompt_ids"),))
    assert tokenizers_in(run(encode, pieces, **loaded("a"))) == "a"
    with pytest.raises(DataError, match="wrong-tokenizer"):
        run(encode, pieces, **loaded("b"))


def test_a_policy_and_a_reward_model_may_speak_differently_in_one_row(run: Run) -> None:
    pieces = run(Chat(generation=True), PROMPTS.example(4), **loaded("a"))
    prompts = run(Encode(columns=(("pieces", "prompt_ids"),)), pieces, **loaded("a"))
    echo = functools.partial(Resource, "echo", EchoGenerator, TOKENIZED_PROMPTS)
    with pytest.raises(DataError, match=r"prompt_ids holds ids of another tokenizer than the generator"):
        run(Complete(), prompts, generator=echo(tokenizer_id="b"))
    samples = run(Complete(), prompts, generator=echo(tokenizer_id="a"))
    assert tokenizers_in(samples) == "a"
    judged = run(RewardPrompt(), samples, **loaded("b"))
    scored = run(Encode(columns=(("reward_pieces", "input_ids"),)), judged, **loaded("b"))
    assert tokenizers_in(scored) == {
        "pieces": "a", "prompt_ids": "a", "response_ids": "a", "reward_pieces": "b", "input_ids": "b"
    }  # fmt: skip
    length = functools.partial(Resource, "length", LengthScorer, SCORED)
    with pytest.raises(DataError, match=r"input_ids holds ids of another tokenizer than the scorer"):
        run(Reward(), scored, scorer=length(tokenizer_id="a"))
    kept = run(Query(tables=("data",), query="SELECT input_ids AS prompt_ids FROM data"), scored)
    assert tokenizers_in(kept) == {"prompt_ids": ["a", "b"]}, "a query may rename: whatever was there"


def test_a_mixture_of_two_tokenizers_says_so_and_is_good_for_neither(run: Run) -> None:
    parts = [
        run(
            Mask(id_column="sample_id"),
            run(Chat(response="response"), COMPLETIONS.example(4), **loaded(name)),
            **loaded(name),
        )
        for name in "ab"
    ]
    mixed = run(Mix(sources=("a", "b"), epochs=(1.0, 1.0)), *parts)
    assert tokenizers_in(mixed)["input_ids"] == ["a", "b"]
    packs = run(Pack(capacity=4096), mixed)
    tokenizers = tokenizer_lineage.tokenizers_of(packs.schema, packs.facts)
    for name in "ab":
        with pytest.raises(DataError, match="wrong-tokenizer"):
            tokenizer_lineage.check(tokenizers, ["input_ids"], name, "the checkpoint", packs.url)
    tokenizer_lineage.check(tokenizers, ["input_ids"], "", "a network that says nothing", packs.url)
    again = run(Mask(id_column="sample_id"), run(Chat(response="response"), mixed, **loaded("c")), **loaded("c"))
    assert tokenizers_in(again) == "c", "made anew from the text"


def test_a_tokenizer_without_an_identity_is_known_by_its_key(run: Run) -> None:
    made = run(Chat(), PROMPTS.example(3), tokenizer=Resource("mine", small_tokenizer))
    assert {name: made.facts[name] for name in made.facts if "tokenizer" in name} == {
        "tokenizer": "mine",
        "tokenizer_key": "mine",
    }
