"""Texts of answers out of a real sentencepiece-like vocabulary: blanks, bytes cut inside a letter, stop texts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from datakit.clients import Sampling
from schemas.manifest import Manifest
from trainers.engine.checkpoint import checkpoint
from trainers.engine.inference import generator
from trainers.engine.inference.answer_texts import StopTexts, anchor

VOCABULARY = 520
"""A few rows more than the tokenizer has tokens, as padded networks have."""


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "model-stories260k/hf"


@pytest.fixture(scope="module")
def stories(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def stops(tokenizer: Tokenizer, *texts: str) -> StopTexts:
    return StopTexts(tokenizer, texts, np.zeros(VOCABULARY, np.bool_))


def ended_at(stop_texts: StopTexts, ids: list[int]) -> int | None:
    """After how many tokens the sampler would end this answer."""
    row = np.array(ids, np.int32)
    for count in range(1, len(ids) + 1):
        last = row[count - 1]
        if stop_texts.ends[last] or (stop_texts.may_end[last] and stop_texts.ends_in(row[:count])):
            return count
    return None


def test_texts_equal_those_of_transformers(folder: Path, stories: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    greedy = json.loads((folder.parent / "greedy.json").read_text())["greedy_token_ids_from_bos"]
    rows = [greedy, greedy[5:], greedy[:1], [], stories.encode("é漢🎉\n").ids]
    rows += [rows[-1][:-cut] for cut in (1, 2, 3, 5, 6)] + [[515, *greedy[3:9], 519]]
    own = stories.decode_batch(rows, skip_special_tokens=True)
    assert own == [theirs.decode(row, skip_special_tokens=True) for row in rows]
    assert own[4] == "é漢🎉\n"
    assert own[5] == "é漢🎉"
    assert own[6] == "é" + 6 * "\ufffd", "the library gives up the whole run of bytes"
    mended = [stops(stories).mended(row, text) for row, text in zip(rows, own, strict=True)]
    assert mended[6:10] == ["é漢\ufffd", "é漢\ufffd", "é漢", "é\ufffd"], "only the letter that is cut is lost"
    assert [*mended[:6], mended[10]] == [*own[:6], own[10]]


def test_a_letter_cut_by_a_byte_level_vocabulary_costs_nothing_before_it() -> None:
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE({**alphabet, "ĠÃ": len(alphabet)}, [("Ġ", "Ã")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ids = tokenizer.encode("tea é").ids[:-1]
    assert tokenizer.id_to_token(ids[-1]) == "ĠÃ"
    assert stops(tokenizer).mended(ids, tokenizer.decode(ids)) == "tea \ufffd"


@pytest.mark.parametrize("stop", ["time", " time,", "there was", "\n", "🎉", "é", "漢🎉", ". ", "仮名🎉"])
def test_an_answer_ends_where_its_stop_text_is_complete(stories: Tokenizer, stop: str) -> None:
    text = "Once upon a time, there was a dog. é漢🎉\n And more of it. 漢字漢字仮名🎉 end"
    ids, stop_texts = stories.encode(text, add_special_tokens=False).ids, stops(stories, stop)
    count = ended_at(stop_texts, ids)
    first = next(n for n in range(len(ids) + 1) if stop in stories.decode(ids[:n]))
    assert count == first
    assert stop_texts.cut(stories.decode(ids[:first])) == text[: text.index(stop)]


def test_a_special_token_as_stop_text_ends_by_its_id(stories: Tokenizer) -> None:
    stop_texts = stops(stories, "<s>", "dog")
    ids = stories.encode("A cat", add_special_tokens=False).ids
    assert ended_at(stop_texts, [*ids, 1, 400]) == len(ids) + 1
    assert (stop_texts.texts, np.flatnonzero(stop_texts.ends).tolist()) == (("dog",), [1])
    spelt = stories.encode(" < s >", add_special_tokens=False).ids
    assert ended_at(stop_texts, spelt) is None
    assert ended_at(stops(stories), [*ids, 1]) is None


class Says:
    """A network's place in a `Generator` that says a fixed answer."""

    def __init__(self, size: int) -> None:
        self.architecture = type("Architecture", (), {"vocab_size": size, "max_sequence_length": 64})()


def test_what_ends_an_answer_is_left_out_of_its_text(stories: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_ids = [*stories.encode("A cat 🎉", add_special_tokens=False).ids, 1, 7]

    class Decoded:
        def __init__(self, network: Any, distribution: Any, *, ended: Any, **options: Any) -> None:
            self.ended = ended

        def run(self, units: Any) -> Any:
            ids, counts = np.array([answer_ids], np.int32), np.array([0])
            answers = type("Answers", (), {"ids": ids, "counts": counts, "logprobs": np.zeros(ids.shape, np.float32)})()
            answers.stopped = np.zeros(1, np.bool_)
            while counts[0] < len(answer_ids) and not answers.stopped[0]:
                counts[0] += 1
                answers.stopped = self.ended(np.array([0]), answers)
            return answers

    monkeypatch.setattr(generator, "Decoder", Decoded)
    policy: Any = generator.Generator(Says(VOCABULARY), stories, [2])  # type: ignore[arg-type]
    prompts = pa.table({"prompt_ids": pa.array([[1, 403]], pa.list_(pa.int32()))})
    for stop, text, count in (
        (("<s>",), " A cat 🎉", len(answer_ids) - 1),
        ((" c",), " A", 3),
        ((), " A cat 🎉\x04", len(answer_ids)),
    ):
        sampling = Sampling(samples_per_prompt=1, max_new_tokens=20, stop=stop)
        row = policy.generate(prompts, sampling, np.array([3], np.uint64)).to_pylist()[0]
        assert (row["response"], len(row["response_ids"])) == (text, count), stop


def test_what_generation_config_names_ends_an_answer_too(folder: Path) -> None:
    texts = {
        "tokenizer.json": (folder / "tokenizer.json").read_text(),
        "tokenizer_config.json": '{"eos_token": "</s>"}',
    }
    kept: Any = SimpleNamespace(folder="x", text=texts.get, tokenizer_files=lambda: texts, manifest=Manifest())
    kept.model = SimpleNamespace(vocab_size=VOCABULARY)
    assert generator.load_tokenizer(kept)[1].ids == (2,)
    for named in ([1, 2], 1):
        texts["generation_config.json"] = json.dumps({"eos_token_id": named})
        assert set(generator.load_tokenizer(kept)[1].ids) == {1, 2}
    del texts["generation_config.json"]
    texts["tokenizer_config.json"] = "{}"
    assert generator.load_tokenizer(kept)[1].ids == (), "a tokenizer without an end token"
    assert checkpoint.TOKENIZER[:2] == ("tokenizer.json", "tokenizer_config.json")


def test_an_answer_keeps_the_blank_that_parts_it_from_its_prompt(stories: Tokenizer) -> None:
    first, lead = anchor(stories)
    for prompt, answer in (("One day", " Lily went home."), ("play", "ed a game"), ("He said", ': "yes"')):
        whole = stories.encode(prompt + answer, add_special_tokens=False).ids
        ids = whole[len(stories.encode(prompt, add_special_tokens=False).ids) :]
        text = stories.decode([*first, *ids])
        assert text.startswith(lead) and text[len(lead) :] == answer
