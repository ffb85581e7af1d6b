"""Losses against those of TRL: on the same log-probs, value and gradient, and from the same weights.

TRL runs in a process of its own, from `build/trl`, where `make test-slow` puts it (tests/fidelity/trl.txt).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.settings import parse
from tests.trainers.networks import llama, louder, network
from trainers import registry
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs
from trainers.algorithms import SFT
from trainers.engine.data.batch import MicroBatch, assemble
from trainers.engine.megatron.forward import extract_outputs, forward

ROOT = Path(__file__).resolve().parents[2]
TRL = ROOT / "build" / "trl"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TRL / "trl").is_dir(), reason="TRL is not in build/trl: make test-slow puts it there"),
]
RANDOM = np.random.default_rng(7)
CHOSEN_TOKENS, REJECTED_TOKENS = (4, 4, 4, 4, 4), (2, 5, 3, 1, 6)
"""Counted tokens of each answer. Chosen ones are of one length, because TRL's terms of the chosen answer's own loss are
means over the tokens of a batch, and ours over those of a row."""
MARGINS = (0.0, 0.5, 1.0, 2.0, 3.0)

PAIRS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    # ours and its settings, TRL's trainer and its settings
    "dpo": ("dpo", {"beta": 0.3}, "dpo", {"loss_types": ["sigmoid"], "beta": 0.3}),
    "dpo, length-normalised": (
        *("dpo", {"beta": 2.0, "average_log_probs": True}),
        *("dpo", {"loss_types": ["sigmoid_norm"], "beta": 2.0}),
    ),
    "dpo, conservative": (
        *("dpo", {"beta": 0.3, "label_smoothing": 0.1}),
        *("dpo", {"loss_types": ["aot"], "beta": 0.3, "label_smoothing": 0.1}),
    ),
    "dpo with SFT": (
        *("dpo", {"beta": 0.3, "sft_weight": 0.4, "sft_average_log_probs": True}),
        *("dpo", {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.4], "beta": 0.3}),
    ),
    "ipo": ("ipo", {"beta": 0.2, "average_log_probs": True}, "dpo", {"loss_types": ["ipo"], "beta": 0.2}),
    "simpo": (
        *("simpo", {"beta": 2.0, "gamma": 1.2}),
        *("simpo", {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.2}),
    ),
    "simpo with SFT": (
        *("simpo", {"beta": 2.0, "gamma": 0.5, "sft_weight": 0.3}),
        *("simpo", {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.3}),
    ),
    "orpo": ("orpo", {"beta": 0.25}, "orpo", {"beta": 0.25}),
    "apo to zero": ("apo", {"beta": 0.3}, "dpo", {"loss_types": ["apo_zero"], "beta": 0.3}),
    "apo downwards": ("apo", {"anchor": "down", "beta": 0.3}, "dpo", {"loss_types": ["apo_down"], "beta": 0.3}),
}
KTO = {
    "kto": ({"beta": 0.3}, {"beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.0}),
    "kto, weighted": ({"beta": 0.1, "desirable_weight": 1.3, "undesirable_weight": 0.7},) * 2,
}
SCORES = {
    "rm": ("rm", {}, {}, False),
    "rm, centred": ("rm", {"center": 0.05}, {"center_rewards_coefficient": 0.05}, False),
    "rm with a margin": ("rm_margin", {}, {}, True),
}
LOGITS = {
    "kd forward": ({}, {"beta": 0}),
    "kd backward": ({"direction": "backward"}, {"beta": 1}),
    "kd between": ({"direction": "jsd", "jsd_weight": 0.3}, {"beta": 0.3}),
    "kd at temperature 2": ({"student_scale": 0.5, "teacher_scale": 0.5}, {"beta": 0, "temperature": 2.0}),
}
WEIGHTS = {
    **{
        name: PAIRS[name]
        for name in (
            *("dpo", "dpo, length-normalised", "dpo, conservative", "dpo with SFT"),
            *("ipo", "simpo", "simpo with SFT"),
        )
    },
    **{name: PAIRS[name] for name in ("orpo", "apo to zero", "apo downwards")},
    "kto": ("kto", KTO["kto"][0], "kto", KTO["kto"][1]),
    "rm": ("rm", {}, "rm", {}),
    "rm with a margin": ("rm_margin", {}, "rm with a margin", {}),
    **{name: ("kd", LOGITS[name][0], "kd", LOGITS[name][1]) for name in LOGITS},
}


def drawn(lengths: Sequence[int], before: int = 0) -> list[list[float]]:
    """Log-probs of fp32 that text carries exactly."""
    return [(-RANDOM.exponential(1.2, before + n)).astype(np.float32).tolist() for n in lengths]


def numbers(count: int, scale: float = 1.0) -> list[float]:
    drawn_numbers: list[float] = RANDOM.normal(scale=scale, size=count).astype(np.float32).tolist()
    return drawn_numbers


def given() -> dict[str, Any]:
    """Two tokens of the question before every answer."""
    sides = {
        "chosen": CHOSEN_TOKENS,
        "rejected": REJECTED_TOKENS,
        "answers": REJECTED_TOKENS,
        "mismatched": CHOSEN_TOKENS,
    }
    made: dict[str, Any] = {}
    for side, lengths in sides.items():
        made[side] = drawn(lengths, before=2)
        made[f"{side}_mask"] = [[0, 0, *[1] * n] for n in lengths]
        made[f"ref_{side}"] = [sum(row[2:]) + shift for row, shift in zip(made[side], numbers(5), strict=True)]
    made["ref_mismatched"] = [value - 1.0 for value in made["ref_mismatched"]]  # a reference point above 0
    made |= {"desirable": [True, False, True, True, False], "counted": [1, 0, 1, 1, 0, 1, 1]}
    made |= {"chosen_score": numbers(5), "rejected_score": numbers(5), "margin": MARGINS}
    made |= {name: RANDOM.normal(scale=2, size=(7, 11)).astype(np.float32).tolist() for name in ("student", "teacher")}
    return made


def tokens(lengths: Sequence[int]) -> list[list[int]]:
    return [RANDOM.integers(2, 43, n).tolist() for n in lengths]


def rows() -> dict[str, Any]:
    """Pairs and judged answers in tokens. A question is one token, which nothing predicts: TRL's ORPO learns it too."""
    prompts, chosen, rejected = tokens((1,) * 5), tokens(CHOSEN_TOKENS), tokens(REJECTED_TOKENS)
    pairs = [
        {"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in zip(prompts, chosen, rejected, strict=True)
    ]
    feedback = [
        {"prompt_ids": p, "completion_ids": c, "KL_completion_ids": o, "label": i % 2 == 0}
        for i, (p, c, o) in enumerate(zip(prompts, rejected, rejected[1:] + rejected[:1], strict=True))
    ]
    whole = [{f"{side}_ids": p["prompt_ids"] + p[f"{side}_ids"] for side in ("chosen", "rejected")} for p in pairs]
    graded = [{**pair, "margin": margin} for pair, margin in zip(whole, MARGINS, strict=True)]
    return {"pairs": pairs, "feedback": feedback, "whole": whole, "graded": graded}


@pytest.fixture(scope="module")
def nets() -> dict[str, Any]:
    torch.set_num_threads(1)
    return {
        "policy": louder(network(seed=1), 2.0),
        "reference": louder(network(seed=2), 2.0),
        "scorer": louder(network(seed=3, head="scalar"), 2.0),
    }


@pytest.fixture(scope="module")
def asked() -> dict[str, Any]:
    cases: dict[str, Any] = {n: {"of": "pairs", "trainer": t, "settings": s} for n, (_, _, t, s) in PAIRS.items()}
    cases |= {name: {"of": "feedback", "settings": theirs} for name, (_, theirs) in KTO.items()}
    cases |= {name: {"of": "scores", "settings": s, "margin": m} for name, (_, _, s, m) in SCORES.items()}
    cases |= {name: {"of": "logits", "settings": theirs} for name, (_, theirs) in LOGITS.items()}
    weights = {name: {"trainer": trainer, "settings": s} for name, (_, _, trainer, s) in WEIGHTS.items()}
    return {"given": given(), "rows": rows(), "cases": cases, "weights": weights}


@pytest.fixture(scope="module")
def theirs(asked: dict[str, Any], nets: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("trl")
    for name, net in nets.items():
        llama(net).save_pretrained(folder / name)
    (folder / "in.json").write_text(json.dumps(asked))
    command = [sys.executable, "-W", "ignore", "-m", "tests.fidelity.trl_losses"]
    command += [str(folder / "in.json"), str(folder / "out.json"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": f"{TRL}:{ROOT}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answers: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return answers


def laid(lists: Sequence[Sequence[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Values end to end, and the row of each."""
    rows = torch.from_numpy(np.repeat(np.arange(len(lists)), [len(row) for row in lists]))
    return torch.tensor([value for row in lists for value in row]), rows


def outputs_for(values: torch.Tensor, rows: torch.Tensor, needs: Needs) -> ModelOutputs:
    return ModelOutputs(rows, int(rows.max()) + 1, {needs: values})


def close(loss: Loss, values: Sequence[torch.Tensor], answer: dict[str, Any], theirs_at: Sequence[np.ndarray]) -> None:
    """Value to 1e-6, and gradient of what was given."""
    mean = (loss.values * loss.weights).sum() / loss.weights.sum()
    assert mean.dtype == torch.float32 and mean.item() == pytest.approx(answer["loss"], rel=1e-6, abs=1e-6)
    mean.backward()
    for value, expected in zip(values, theirs_at, strict=True):
        assert value.grad is not None and expected.any()
        np.testing.assert_allclose(value.grad.numpy().reshape(expected.shape), expected, rtol=1e-5, atol=1e-7)


def unpadded(gradient: Sequence[Sequence[float]], lists: Sequence[Sequence[float]]) -> np.ndarray:
    return np.concatenate([row[: len(given)] for row, given in zip(gradient, lists, strict=True)])


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_the_same_log_probs(name: str, asked: dict[str, Any], theirs: dict[str, Any]) -> None:
    ours, settings, _, _ = PAIRS[name]
    algorithm, data, answer = registry.algorithms()[ours], asked["given"], theirs["cases"][name]
    outputs, columns, values, gradients = {}, {}, [], []
    for number, side in enumerate(("chosen", "rejected")):
        flat, row_T = laid(data[side])
        values.append(flat.requires_grad_())
        outputs[f"{side}_ids"] = outputs_for(flat, row_T, Needs.LOGPROBS)
        columns[f"{side}_mask"] = laid(data[f"{side}_mask"])[0]
        columns[f"ref_logprob_{side}"] = torch.tensor(data[f"ref_{side}"])
        gradients.append(unpadded(answer["gradient"][5 * number : 5 * number + 5], data[side]))
    close(algorithm.loss(parse(algorithm.settings, settings), outputs, columns), values, answer, gradients)


@pytest.mark.parametrize("name", KTO)
def test_judged_answers_of_the_same_log_probs(name: str, asked: dict[str, Any], theirs: dict[str, Any]) -> None:
    algorithm, data, answer = registry.algorithms()["kto"], asked["given"], theirs["cases"][name]
    (values, row_T), (others, other_T) = laid(data["answers"]), laid(data["mismatched"])
    columns = {
        "loss_mask": laid(data["answers_mask"])[0],
        "mismatched_mask": laid(data["mismatched_mask"])[0],
        "ref_logprob": torch.tensor(data["ref_answers"]),
        "ref_logprob_mismatched": torch.tensor(data["ref_mismatched"]),
        "desirable": torch.tensor(data["desirable"]).long(),
    }
    settings = parse(algorithm.settings, KTO[name][0])
    assert algorithm.statistics_of is not None
    read = {"mismatched_ids": outputs_for(others, other_T, Needs.LOGPROBS)}
    total, count = algorithm.statistics_of(settings, read, columns)["kl"]
    assert total > 0, "a reference point that counts"
    outputs = {"input_ids": outputs_for(values.requires_grad_(), row_T, Needs.LOGPROBS)}
    loss = algorithm.loss(settings, outputs, columns | {"kl": total / count})
    close(loss, [values], answer, [unpadded(answer["gradient"], data["answers"])])


@pytest.mark.parametrize("name", SCORES)
def test_pairs_of_the_same_scores(name: str, asked: dict[str, Any], theirs: dict[str, Any]) -> None:
    ours, settings, _, _ = SCORES[name]
    algorithm, data, answer = registry.algorithms()[ours], asked["given"], theirs["cases"][name]
    values = [torch.tensor(data[f"{side}_score"]).requires_grad_() for side in ("chosen", "rejected")]
    outputs = {
        f"{side}_ids": outputs_for(value[:, None], torch.arange(5), Needs.SCORES)
        for side, value in zip(("chosen", "rejected"), values, strict=True)
    }
    columns = {"chosen_reward": torch.tensor(data["margin"]), "rejected_reward": torch.zeros(5)}
    gradients = list(np.array(answer["gradient"]).reshape(2, 5))
    close(algorithm.loss(parse(algorithm.settings, settings), outputs, columns), values, answer, gradients)


@pytest.mark.parametrize("name", LOGITS)
def test_distillation_of_the_same_logits(name: str, asked: dict[str, Any], theirs: dict[str, Any]) -> None:
    algorithm, data, answer = registry.algorithms()["kd"], asked["given"], theirs["cases"][name]
    values = torch.tensor(data["student"]).requires_grad_()
    answers = {Needs.GATHERED_LOGITS: values, Needs.LOGPROBS: values.log_softmax(-1)[:, 0]}
    outputs = {"input_ids": ModelOutputs(torch.zeros(7, dtype=torch.long), 1, answers)}
    columns = {
        "teacher_logprobs": torch.tensor(data["teacher"]).log_softmax(-1),
        "loss_mask": torch.tensor(data["counted"]),
    }
    loss = algorithm.loss(parse(algorithm.settings, LOGITS[name][0]), outputs, columns)
    close(loss, [values], answer, [np.array(answer["gradient"])])


def outputs_of(net: Any, batch: MicroBatch, needs: Needs) -> dict[str, ModelOutputs]:
    return extract_outputs(forward(net, batch), batch, needs, 43)


def reference_logprobs(net: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
    """The log-probability of every answer, by our own network."""
    batch = assemble(SFT, [sequence("input_ids", "loss_mask", p, a) for p, a in zip(prompts, answers, strict=True)])
    with torch.no_grad():
        read = outputs_of(net, batch, Needs.LOGPROBS)["input_ids"]
        summed: np.ndarray = read.sum_per_row(read.logprobs_T * batch.rows["loss_mask"]).numpy()
    return summed


def sequence(ids: str, mask: str, prompt: list[int], answer: list[int]) -> dict[str, np.ndarray]:
    return {ids: np.array(prompt + answer), mask: np.array([0] * len(prompt) + [1] * len(answer))}


def taught(algorithm: Algorithm, pairs: Sequence[dict[str, Any]], teacher: Any) -> MicroBatch:
    """The chosen answers, with what `teacher` says of all 43 ids."""
    rows = [sequence("input_ids", "loss_mask", pair["prompt_ids"], pair["chosen_ids"]) for pair in pairs]
    for row in rows:
        row["teacher_ids"] = np.tile(np.arange(43), (len(row["input_ids"]), 1))
        row["teacher_logprobs"] = np.zeros(row["teacher_ids"].shape, np.float32)
    batch = assemble(algorithm, rows)
    with torch.no_grad():
        logits_TK = outputs_of(teacher, batch, algorithm.needs)["input_ids"].gathered_logits_TK
    return replace(batch, rows={**batch.rows, "teacher_logprobs": logits_TK.log_softmax(-1)})


def batch_of(algorithm: Algorithm, data: dict[str, Any], reference: Any) -> MicroBatch:
    """The rows as `algorithm` reads them."""
    if algorithm.name == "kd":
        return taught(algorithm, data["pairs"], reference)
    if algorithm.name == "kto":
        read = data["feedback"]
        sides = {"completion_ids": ("input_ids", "loss_mask", "ref_logprob")}
        sides["KL_completion_ids"] = ("mismatched_ids", "mismatched_mask", "ref_logprob_mismatched")
    else:
        read = data["pairs"]
        sides = {f"{s}_ids": (f"{s}_ids", f"{s}_mask", f"ref_logprob_{s}") for s in ("chosen", "rejected")}
    prompts = [row["prompt_ids"] for row in read]
    rows: list[dict[str, Any]] = [{"desirable": np.array(row.get("label", False))} for row in read]
    for name, (ids, mask, ref) in sides.items():
        answers = [row[name] for row in read]
        known = reference_logprobs(reference, prompts, answers)
        for row, prompt, answer, value in zip(rows, prompts, answers, known, strict=True):
            row.update(sequence(ids, mask, prompt, answer), **{ref: value})
    if algorithm.name == "rm_margin":
        for row, pair in zip(rows, data["graded"], strict=True):
            row |= {"chosen_reward": np.float64(pair["margin"]), "rejected_reward": np.float64(0)}
    return assemble(algorithm, rows)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_same_weights(name: str, asked: dict[str, Any], theirs: dict[str, Any], nets: dict[str, Any]) -> None:
    ours, wanted, _, _ = WEIGHTS[name]
    algorithm = registry.algorithms()[ours]
    settings, net = parse(algorithm.settings, wanted), nets["scorer" if algorithm.needs.scalar else "policy"]
    batch = batch_of(algorithm, asked["rows"], nets["reference"])
    constants = {}
    if algorithm.statistics_of is not None:
        assert batch.statistics is not None
        with torch.no_grad():
            read = outputs_of(net, batch.statistics, algorithm.needs)
            open_means = algorithm.statistics_of(settings, read, batch.statistics.rows)
        constants = {key: total / count for key, (total, count) in open_means.items()}
    made = algorithm.loss(settings, outputs_of(net, batch, algorithm.needs), batch.rows | constants)
    loss = (made.values * made.weights).sum() / made.weights.sum()
    net.zero_grad(set_to_none=True)
    loss.backward()
    squares = [value.grad.square().sum() for value in net.parameters() if value.grad is not None]
    answer = theirs["weights"][name]
    assert loss.item() == pytest.approx(answer["loss"], rel=1e-4)
    assert torch.stack(squares).sum().sqrt().item() == pytest.approx(answer["norm"], rel=1e-4)
