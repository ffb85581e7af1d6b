"""The generator: the cache changes nothing, nor does who sits beside whom; draws follow their
distribution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models

from schemas.errors import ConfigError
from tests.trainers.networks import SMALL, llama, louder, network, vocabulary, words
from tests.trainers.sampling import Sampling
from trainers.engine.checkpoint import checkpoint
from trainers.engine.inference import token_sampling
from trainers.engine.inference.generator import Generator, open_generator
from trainers.engine.megatron.model import Network
from trainers.launch import rank
from trainers.launch.rank_status import read_all

END = 1


def prompts(count: int, seed: int = 0, longest: int = 20) -> pa.Table:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(2, SMALL.vocab_size, rng.integers(1, longest)).tolist() for _ in range(count)]
    return pa.table({"prompt_ids": pa.array(ids, pa.list_(pa.int32()))})


def seeds(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64) * np.uint64(7919)


def generator(net: Network, **options: Any) -> Generator:
    return Generator(net.eval(), words(), [END], **options)


@torch.no_grad()
def without_cache(net: Network, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """Greedy decoding that reads everything again at every step."""
    drawn: list[int] = []
    logprobs: list[float] = []
    for _ in range(count):
        whole = torch.tensor([ids + drawn])
        logits = net(whole, torch.arange(whole.shape[1])[None], None)[0, -1, : SMALL.vocab_size]
        drawn.append(int(logits.argmax()))
        logprobs.append(float(logits.log_softmax(-1).max()))
        if drawn[-1] == END:
            break
    return drawn, logprobs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window": 4},
        {"position": "learned", "normalization": "LayerNorm", "linear_bias": True},
        {"tie_embeddings": True},
    ],
    ids=["llama", "window", "learned", "tied"],
)
def test_greedy_ragged_decoding_is_whole_reading(changes: dict[str, Any]) -> None:
    net, rows = louder(network(**changes)), prompts(9)
    answers = generator(net, batch_size=4).generate(rows, Sampling(greedy=True), seeds(9))
    for ids, answer in zip(rows["prompt_ids"].to_pylist(), answers.to_pylist(), strict=True):
        drawn, logprobs = without_cache(net, ids, 12)
        assert answer["response_ids"] == drawn
        np.testing.assert_allclose(answer["logprobs"], logprobs, atol=1e-4)
        assert answer["finish_reason"] == ("stop" if drawn[-1] == END else "length")


def test_greedy_decoding_is_hugging_faces() -> None:
    net, rows = louder(network()), prompts(5)
    hf = llama(net)
    answers = generator(net).generate(rows, Sampling(greedy=True), seeds(5))
    for ids, answer in zip(rows["prompt_ids"].to_pylist(), answers["response_ids"].to_pylist(), strict=True):
        out = hf.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=END, pad_token_id=0)
        assert answer == out[0, len(ids) :].tolist()


def test_neither_batch_nor_refill_nor_order_changes_an_answer() -> None:
    net, rows = louder(network(), 4.0), prompts(15)
    sampling = Sampling(samples_per_prompt=3, temperature=0.8, top_k=20, top_p=0.9)
    plain = generator(net, batch_size=1000, refill=False).generate(rows, sampling, seeds(15)).to_pylist()
    for batch_size, refill in ((8, True), (8, False), (2, True), (45, True)):
        assert _same(
            generator(net, batch_size=batch_size, refill=refill).generate(rows, sampling, seeds(15)).to_pylist(),
            plain,
        )
    order = np.random.default_rng(1).permutation(15)
    turned = generator(net, batch_size=8).generate(rows.take(order), sampling, seeds(15)[order]).to_pylist()
    back = sorted(
        ({**a, "prompt_row": int(order[a["prompt_row"]])} for a in turned),
        key=lambda a: (a["prompt_row"], a["sample_index"]),
    )
    assert _same(back, plain)
    assert len({tuple(a["response_ids"]) for a in plain[:3]}) > 1


def _same(have: list[dict[str, Any]], want: list[dict[str, Any]]) -> bool:
    for a, b in zip(have, want, strict=True):
        np.testing.assert_allclose(a.pop("logprobs"), b["logprobs"], atol=1e-4)
        assert a == {name: value for name, value in b.items() if name != "logprobs"}
    return True


def test_logprobs_are_the_policys_whatever_was_drawn_from() -> None:
    net, rows = louder(network()), prompts(4)
    answers = generator(net).generate(rows, Sampling(temperature=0.5, top_k=5), seeds(4)).to_pylist()
    for ids, answer in zip(rows["prompt_ids"].to_pylist(), answers, strict=True):
        whole = torch.tensor([ids + answer["response_ids"]])
        with torch.no_grad():
            logits = net(whole, torch.arange(whole.shape[1])[None], None)[0, :, : SMALL.vocab_size]
        wanted = logits[:-1].log_softmax(-1).gather(1, whole[0, 1:, None])[len(ids) - 1 :, 0]
        np.testing.assert_allclose(answer["logprobs"], wanted, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"greedy": True}, {"top_k": 5}, {"top_p": 0.9, "temperature": 1.5}], ids=str)
def test_an_id_without_a_token_is_never_drawn(settings: dict[str, Any]) -> None:
    """The tokenizer ends at 30 and lacks 7 and 8: of 43 ids of the model."""
    net, rows = network(), prompts(40)
    gappy = Tokenizer(models.WordLevel({f"w{i}": i for i in range(30) if i not in {7, 8}}, unk_token="w0"))
    drawing = Generator(net.eval(), gappy, [END])
    answers = drawing.generate(rows, Sampling(samples_per_prompt=4, **settings), seeds(40)).to_pylist()
    drawn = {i for answer in answers for i in answer["response_ids"]}
    assert drawn <= set(range(30)) - {7, 8} and (settings.get("greedy") or len(drawn) > 20)
    for answer in answers[:12]:
        ids = rows["prompt_ids"][answer["prompt_row"]].as_py()
        whole = torch.tensor([ids + answer["response_ids"]])
        with torch.no_grad():
            logits = net(whole, torch.arange(whole.shape[1])[None], None)[0, :, : SMALL.vocab_size]
        read = logits[:-1].log_softmax(-1).gather(1, whole[0, 1:, None])[len(ids) - 1 :, 0]
        np.testing.assert_allclose(answer["logprobs"], read, atol=1e-5)


def test_an_end_that_only_the_model_knows_can_be_drawn_and_no_tokens_at_all_are_refused() -> None:
    net = network()
    few = Tokenizer(models.WordLevel({"w0": 0}, unk_token="w0"))
    answers = Generator(net.eval(), few, [42]).generate(prompts(20), Sampling(), seeds(20)).to_pylist()
    assert {i for answer in answers for i in answer["response_ids"]} == {0, 42}
    with pytest.raises(ConfigError, match="no-tokens"):
        Generator(net, Tokenizer(models.WordLevel({"w": 43}, unk_token="w")), [])


def test_an_answer_ends_at_the_end_token_and_at_stop_texts() -> None:
    net, rows = louder(network(), 4.0), prompts(30)
    free = generator(net).generate(rows, Sampling(), seeds(30)).to_pylist()
    stopped = generator(net).generate(rows, Sampling(stop=("w7", "w11 w")), seeds(30)).to_pylist()
    seen = 0
    for a, b in zip(free, stopped, strict=True):
        assert (a["finish_reason"] == "stop") == (a["response_ids"][-1] == END)
        assert "w1 " not in a["response"] + " "
        ends = [place for text in ("w7", "w11 w") if (place := a["response"].find(text)) >= 0]
        if ends:
            seen += 1
            assert b["response"] == a["response"][: min(ends)]
            assert b["finish_reason"] == "stop"
            assert b["response_ids"] == a["response_ids"][: len(b["response_ids"])]
        else:
            assert a == b
    assert seen > 3


def test_a_prompt_that_cannot_be_answered_is_a_row_with_an_error() -> None:
    rows = pa.table({"prompt_ids": pa.array([[2, 3], [], [2] * 64, [2] * 60, [99]], pa.list_(pa.int32()))})
    answers = generator(network()).generate(rows, Sampling(samples_per_prompt=2), seeds(5)).to_pylist()
    assert [a["error"] is None for a in answers[::2]] == [True, False, False, True, False]
    assert {len(a["response_ids"]) for a in answers if a["error"]} == {0}
    assert [len(a["response_ids"]) <= 4 for a in answers[6:8]] == [True, True]
    assert [(a["prompt_row"], a["sample_index"]) for a in answers] == [(i, j) for i in range(5) for j in range(2)]


def test_more_samples_than_rows_in_a_batch() -> None:
    net, rows = network(), prompts(2)
    wide = generator(net).generate(rows, Sampling(samples_per_prompt=7), seeds(2)).to_pylist()
    assert _same(
        generator(net, batch_size=3).generate(rows, Sampling(samples_per_prompt=7), seeds(2)).to_pylist(),
        wide,
    )


def test_a_launcher_sees_that_a_rank_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long draw is no rank that hangs: it gets on with every token."""
    monkeypatch.setenv("QUIVER_RANKS", str(tmp_path))
    rank.enter()
    try:
        answers = generator(network()).generate(prompts(3), Sampling(max_new_tokens=12, greedy=True), seeds(3))
    finally:
        rank.leave(0)
    longest = max(len(ids) for ids in answers["response_ids"].to_pylist())
    assert longest > 3 and read_all(tmp_path)[0].beats >= longest - 1


def test_no_prompts_at_all() -> None:
    assert generator(network()).generate(prompts(0), Sampling(), seeds(0)).num_rows == 0


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_k": 2}, [0.5, 0.25, 0, 0]),
        ({"top_p": 0.7}, [0.5, 0.25, 0, 0]),
        ({"top_p": 0.76}, [0.5, 0.25, 0.15, 0]),
        ({"top_k": 3, "top_p": 0.5}, [0.5, 0, 0, 0]),
        ({"temperature": 0.5}, [0.25, 0.0625, 0.0225, 0.01]),
    ],
)
def test_draws_follow_the_distribution(settings: dict[str, Any], kept: list[float]) -> None:
    order = [2, 0, 3, 1]
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()[torch.tensor(order).argsort()]
    count = 20000
    points = token_sampling.uniforms(token_sampling.streams(seeds(count), np.arange(count)), np.zeros(count, np.int64))
    drawn = token_sampling.Distribution(**settings).draw(logits.expand(count, 4), points).numpy()
    shares = np.bincount(drawn, minlength=4)[order] / count
    np.testing.assert_allclose(shares, np.array(kept) / sum(kept), atol=0.012)
    assert (shares > 0).tolist() == [share > 0 for share in kept]


def test_a_wide_nucleus_falls_back_to_the_whole_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, points = torch.randn(64, 500), np.linspace(0, 0.999, 64)
    whole = token_sampling.Distribution(top_p=0.9).draw(logits, points)
    monkeypatch.setattr(token_sampling, "_PREFILTER", 16)
    assert torch.equal(token_sampling.Distribution(top_p=0.9).draw(logits, points), whole)


def test_uniforms_are_splitmix64() -> None:
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # SplitMix64 from state 0
    state = (np.arange(1, 4, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    assert token_sampling.mix(state).tolist() == first
    points = token_sampling.uniforms(token_sampling.streams(seeds(1000), np.zeros(1000, np.int64)), np.arange(1000))
    assert 0 <= points.min() < 0.01
    assert 0.99 < points.max() < 1
    assert abs(points.mean() - 0.5) < 0.03


def test_a_generator_opens_from_a_checkpoint(tmp_path: Any) -> None:
    net = louder(network())
    checkpoint.save(str(tmp_path / "policy"), model=net, tokenizer_files=vocabulary())
    opened = open_generator(str(tmp_path / "policy"), batch_size=8)
    rows = prompts(3)
    assert opened.generate(rows, Sampling(), seeds(3)).equals(generator(net).generate(rows, Sampling(), seeds(3)))
    checkpoint.save(str(tmp_path / "bare"), model=net)
    with pytest.raises(ConfigError, match="no-tokenizer"):
        open_generator(str(tmp_path / "bare"))
    checkpoint.save(str(tmp_path / "scalar"), model=network(head="scalar"), tokenizer_files=vocabulary())
    with pytest.raises(ConfigError, match="no-language-model"):
        open_generator(str(tmp_path / "scalar"))
