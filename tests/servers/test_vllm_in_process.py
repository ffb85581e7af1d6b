"""vLLM in process, as `vllm:` has it in a worker: the same tokens, numbers, texts and ends as our own engine's."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.clients import Sampling
from datakit.engines.known import TEXTS
from datakit.tokenizers.tokenizer import Tokenizer
from tests.servers.conftest import Own
from tests.servers.test_vllm_answers import CLOSE, furthest, prompts, reread, seeds
from tests.servers.vllm_server import CONTEXT, ENVIRONMENT, PYTHON
from tests.sources import ROOT

pytestmark = pytest.mark.timeout(1800)
GREEDY: list[dict[str, Any]] = [
    {"greedy": True, "max_new_tokens": 64, "stop": stop} for stop in ([], ["<|im_end|>"], ["e", "\n"])
]
DRAWN: list[dict[str, Any]] = [
    {"max_new_tokens": 24, "samples_per_prompt": 3, **cut} for cut in ({}, {"temperature": 0.6}, {"top_k": 5})
]
FEWER: dict[str, Any] = {**DRAWN[0], "samples_per_prompt": 2}


@pytest.fixture(scope="module")
def given() -> list[list[int]]:
    drawn = np.random.default_rng(9)
    return [drawn.integers(0, 250, length).tolist() for length in (2, 7, 40, CONTEXT - 1)]


@pytest.fixture(scope="module")
def made(folder: Path, own: Own, tokenizer: Tokenizer, given: list[list[int]], tmp_path_factory: Any) -> dict[str, Any]:
    """What one process with vLLM in it answers to all that is asked here."""
    known = [np.array(ids[:24], np.int64) for ids in tokenizer.encode(TEXTS)]
    logprobs = own.frozen.logprobs(known).to_pylist()
    asked = {
        "folder": str(folder), "checkpoint": str(folder.parent / "checkpoint"), "longest": CONTEXT,
        "known": [{"input_ids": ids.tolist(), "logprobs": row} for ids, row in zip(known, logprobs, strict=True)],
        "prompts": prompts(32)["prompt_ids"].to_pylist(), "seeds": seeds(32).tolist(), "rows": given,
        "samplings": [*GREEDY, *DRAWN, FEWER],
    }  # fmt: skip
    place = tmp_path_factory.mktemp("in-process")
    (place / "asked.json").write_text(json.dumps(asked))
    command = [str(PYTHON), str(ROOT / "tests/servers/in_process.py"), "asked.json", "made.json"]
    environment = {**os.environ, **ENVIRONMENT, "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [*command, sysconfig.get_path("purelib")],
        cwd=place, env=environment, capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    read: dict[str, Any] = json.loads((place / "made.json").read_text())
    return read


def test_it_is_held_against_our_own_engine(made: dict[str, Any]) -> None:
    assert all(made["compared"][part]["greatest"] <= CLOSE for part in ("given", "drawn")), made["compared"]


def test_greedy_answers_are_those_of_our_own_engine(made: dict[str, Any], own: Own) -> None:
    rows = prompts(32)
    for how, theirs in zip(GREEDY, made["answers"], strict=False):
        sampling = Sampling(**{**how, "stop": tuple(how["stop"])})
        ours = own.generator.generate(rows, sampling, seeds(32)).to_pylist()
        for name in ("error", "response_ids", "finish_reason", "response"):
            assert [one[name] for one in theirs] == [one[name] for one in ours], (how, name)
        assert furthest([one["logprobs"] for one in theirs], [one["logprobs"] for one in ours]) <= CLOSE


def test_draws_are_as_many_as_were_asked_for_and_their_log_probabilities_those_of_the_whole_distribution(
    made: dict[str, Any], own: Own
) -> None:
    rows, drawn = prompts(32), made["answers"][len(GREEDY) : len(GREEDY) + len(DRAWN)]
    for answers in drawn:
        assert len(answers) == 96 and all(one["error"] is None for one in answers)
        assert furthest([one["logprobs"] for one in answers], reread(own, rows, answers)) <= CLOSE
    assert len({tuple(one["response_ids"]) for one in drawn[0]}) == 96
    fewer = [one["response_ids"] for one in made["answers"][-1]]
    assert fewer == [one["response_ids"] for one in drawn[0] if one["sample_index"] < 2]


def test_given_tokens_are_scored_as_our_own_engine_scores_them(
    made: dict[str, Any], own: Own, given: list[list[int]]
) -> None:
    rows = [np.array(ids, np.int64) for ids in given]
    assert furthest(made["logprobs"], own.frozen.logprobs(rows).to_pylist()) <= CLOSE
    ids, values = (part.to_pylist() for part in own.frozen.top_k(rows, 5))
    assert [row[1:] for row in made["ids"]] == [row[1:] for row in ids]
    flat = [[[value for token in row[1:] for value in token] for row in part] for part in (made["values"], values)]
    assert furthest(*flat) <= CLOSE
