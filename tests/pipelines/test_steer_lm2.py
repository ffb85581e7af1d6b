"""SteerLm2Iteration: what its rows hold, worked out again from the answers that were drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

import pytest
from commands import luigi

from datakit.clients import Sampling
from pipelines.graph.plan import Plan
from pipelines.recipes import SteerLm, SteerLm2Iteration
from schemas.dataset import Dataset
from tests import pages
from tests.pipelines import judges

ROWS = [{"prompt": f"Say {n}", "response": "a" * (n % 7 + 1)} for n in range(40)]
FLAGS = {"model": "model", "data": "rows.jsonl", "reward": "judges:letters"}


def test_an_iteration_stands_on_steerlm_and_on_those_before_it(place: Path) -> None:
    plan = Plan(str(place / "out"))
    alone, two = SteerLm(**FLAGS).results(plan), SteerLm2Iteration(**FLAGS, iteration=2).results(plan)
    one = SteerLm2Iteration(**FLAGS).results(plan)
    assert (
        two.checkpoints["first"] is alone.checkpoints["policy"] and two.figures["first"] is alone.figures["evaluation"]
    )
    assert two.checkpoints["iter=1/policy"] is one.checkpoints["policy"]
    assert two.checkpoints["policy"].init is one.checkpoints["policy"]  # type: ignore[attr-defined]
    assert two.datasets["samples"].resources["generator"] is one.checkpoints["policy"]  # type: ignore[attr-defined]
    sampling = two.datasets["samples"].op.sampling  # type: ignore[attr-defined]
    assert sampling == Sampling(samples_per_prompt=8, max_new_tokens=sampling.max_new_tokens)
    assert sampling.temperature == 1 and not sampling.greedy and sampling.top_p == 1 and sampling.top_k == 0


def test_a_prior_that_is_there_is_not_trained(place: Path) -> None:
    made = SteerLm2Iteration(**FLAGS, prior="model").results(Plan(str(place / "out")))
    assert made.checkpoints["prior"] is made.checkpoints["first"].init  # type: ignore[attr-defined]


def only(folder: Path, name: str) -> Dataset:
    place, _, last = f"quiver-data/steerlm/rows/{name}".rpartition("/")
    [made] = (folder / place).glob(f"{last}-????????")
    return Dataset.open(str(made))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_iterations_from_files_to_the_table(tmp_path: Path) -> None:
    pages.model(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    flags = [text for name, value in FLAGS.items() for text in (f"--{name}", value)]
    flags += ["--attributes", '["toxicity", "verbosity"]', "--steered", '["verbosity"]', "--levels", "[0, 2, 4]"]
    flags += ["--iteration", "2", "--max-new-tokens", "6", "--eval-share", "0.2", "--lr", "1e-2"]
    flags += ["--epochs", "8", "--batch-size", "4"]
    more = ["--prompts-per-iteration", "20", "--samples-per-prompt", "4", "--attribute-std", "0.75"]
    done = luigi(tmp_path, "SteerLm2Iteration", *flags, *more, "--set", "rounds.optim.lr=1e-3", module="pipelines")
    assert done.returncode == 0, done.stderr
    asked = [set(only(tmp_path, f"iter={k}/prompts").read()["prompt_id"].to_pylist()) for k in (1, 2)]
    assert len(asked[0]) == len(asked[1]) == 20 and not asked[0] & asked[1]
    for k in (1, 2):
        plain = only(tmp_path, f"iter={k}/plain.texts").read()["text"].to_pylist()
        assert not any("extra_id_2" in text for text in plain)
        check_rows(only(tmp_path, f"iter={k}/learnt").read().to_pylist())
        check_figures(tmp_path, k)
    assert "error wanted" in done.stdout and "iter=2" in done.stdout
    answers = only(tmp_path, "iter=2/answers.attributes").read().to_pylist()
    figures = {row["metric"]: row["value"] for row in only(tmp_path, "iter=2/evaluation").read().to_pylist()}
    errors = [abs(row["measured"][1] - row["requested"]) for row in answers]
    assert figures["subject_0_error.mean"] == pytest.approx(mean(errors))


def check_figures(folder: Path, number: int) -> None:
    """Those of the answers that an iteration learnt from, and as they should have come."""
    figures = {row["metric"]: row["value"] for row in only(folder, f"iter={number}/drawn.figures").read().to_pylist()}
    rows = only(folder, f"iter={number}/learnt").read().to_pylist()
    errors = [abs(row["measured"][1] - row["requested"]) for row in rows]
    wanted = [row["weight"] * error for row, error in zip(rows, errors, strict=True)]
    apart = sum(row["weight"] * math.log(row["weight"] / row["baseline"]) for row in rows)
    assert figures["error.mean"] == pytest.approx(mean(errors))
    assert figures["wanted_error.mean"] == pytest.approx(sum(wanted) / 20)
    assert figures["distance.mean"] == pytest.approx(apart / 20)


def check_rows(rows: list[dict[str, Any]]) -> None:
    """Every column of the rows that are learnt from, from what the policy drew and the judge says of it."""
    groups: dict[str, list[dict[str, Any]]] = {}
    read_back = 0
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
        level = judges.letters([row["response"]])["verbosity"][0]
        asked = [0.0, row["requested"]]
        assert row["attributes"] == asked
        label = f"toxicity:0,verbosity:{row['requested']:.0f}"
        assert f"assistant\n<extra_id_2>{label}\n{row['response']}<|im_end|>" in row["text"]
        expected = sum(math.log(NormalDist(level, 0.75).pdf(value)) for value in asked)
        assert row["attribute_logprob"] == pytest.approx(expected)
        read = [token for token, counts in zip(row["input_ids"], row["loss_mask"], strict=True) if counts]
        if read == row["response_ids"]:
            read_back += 1
            assert row["ref_logprob"] == pytest.approx(sum(row["logprobs"]), abs=1e-3)
    assert read_back and all(len(answers) == 4 for answers in groups.values())
    for answers in groups.values():
        lean = [math.exp(row["attribute_logprob"] + row["prior_logprob"] - row["ref_logprob"]) for row in answers]
        assert [row["weight"] for row in answers] == pytest.approx([one / sum(lean) for one in lean])
        assert [row["baseline"] for row in answers] == pytest.approx([0.25] * 4)
        tokens = mean(sum(row["loss_mask"]) for row in answers)
        assert [row["group_tokens"] for row in answers] == pytest.approx([tokens] * 4)
