"""Distillation by rank against its formula in numpy float64, value and gradient, and of a network's own logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from schemas.errors import DataError
from tests.trainers import toys
from trainers.algorithm import Algorithm, ModelOutputs, Needs
from trainers.algorithms.kd import KD, Settings
from trainers.algorithms.kd_ranked import KD_RANKED
from trainers.engine.data.rows import Limits, TokenDataset

TEACHER = np.log(np.array([[0.5, 0.2, 0.1], [0.6, 0.3, 0.05], [0.9, 0.05, 0.01]]))
MASK = [1, 0, 1]


def by_the_formula(settings: Settings, logits: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
    """Of whole rows of logits: their three largest stand against the teacher's, whatever they are of."""
    largest = np.sort(settings.student_scale * logits, axis=-1)[:, :-4:-1]
    student, teacher = (np.exp(values) for values in (largest, settings.teacher_scale * TEACHER))
    student, teacher = student / student.sum(-1, keepdims=True), teacher / teacher.sum(-1, keepdims=True)
    one, other = (teacher, student) if settings.direction == "forward" else (student, teacher)
    return np.asarray(settings.kd_weight * (one * np.log(one / other)).sum(-1) - settings.sft_weight * logprobs)


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(direction="backward", sft_weight=0.4, student_scale=0.5, teacher_scale=2.0)]
)
def test_value_and_gradient_are_those_of_the_formula(settings: Settings) -> None:
    random = np.random.default_rng(1)
    logits, logprobs = random.normal(size=(3, 7)), -random.exponential(size=3)
    whole = torch.tensor(logits, requires_grad=True)
    largest = whole.sort(descending=True).values[:, :3]
    answers = {Needs.RANKED_LOGITS: largest, Needs.LOGPROBS: torch.tensor(logprobs)}
    rows = {"loss_mask": torch.tensor(MASK), "teacher_logprobs": torch.tensor(TEACHER)}
    outputs = {"input_ids": ModelOutputs(torch.zeros(3, dtype=torch.long), 1, answers)}
    loss = KD_RANKED.loss(settings, outputs, rows)
    np.testing.assert_allclose(loss.values.detach().numpy(), by_the_formula(settings, logits, logprobs), rtol=1e-12)
    assert loss.weights.tolist() == MASK and tuple(loss.metrics) == KD_RANKED.metrics
    loss.values.sum().backward()
    assert whole.grad is not None
    for place in np.ndindex(logits.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = logits.copy()
            moved[place] += step
            ends.append(by_the_formula(settings, moved, logprobs).sum())
        assert whole.grad[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)


def test_more_ranks_than_the_student_has_tokens_are_refused(tmp_path: Path) -> None:
    row = toys.rows_for(KD_RANKED, 1).to_pylist()[0]
    row["teacher_logprobs"] = [[0.0] * 9 for _ in row["input_ids"]]
    row["input_ids"] = [value % 8 for value in row["input_ids"]]
    data = toys.put(tmp_path / "rows", KD_RANKED.rows, pa.Table.from_pylist([row], schema=KD_RANKED.rows.arrow))
    with pytest.raises(DataError, match="9 entries per token, more than the vocabulary"):
        TokenDataset(data, KD_RANKED, Limits(48, 8))
    assert len(TokenDataset(data, KD_RANKED, Limits(48, 9))) == 1


def test_a_token_without_a_teacher_has_the_cross_entropy_alone() -> None:
    """Whose log-probabilities are all 0, as `label.across` leaves them inside a teacher's token."""
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.5, 0.25, -1.0]], requires_grad=True)
    answers = {Needs.RANKED_LOGITS: logits, Needs.LOGPROBS: torch.tensor([-0.5, -2.0])}
    teacher = torch.tensor([[0.0, 0.0, 0.0], [-0.5, -1.0, -4.0]])
    outputs = {"input_ids": ModelOutputs(torch.zeros(2, dtype=torch.long), 1, answers)}
    rows = {"loss_mask": torch.tensor([1, 1]), "teacher_logprobs": teacher}
    loss = KD_RANKED.loss(Settings(sft_weight=0.4), outputs, rows)
    assert loss.values[0].item() == pytest.approx(0.4 * 0.5) and loss.values[1].item() > 0.4 * 2.0
    loss.values.sum().backward()
    assert logits.grad is not None and not logits.grad[0].any() and logits.grad[1].all()


@pytest.mark.parametrize("algorithm", [KD, KD_RANKED])
def test_figures_of_the_teacher_are_of_the_tokens_that_it_taught(algorithm: Algorithm) -> None:
    """Against NumPy in float64: of 24 tokens some do not count, and of some that do a teacher says nothing."""
    random = np.random.default_rng(4)
    logits, logprobs = -np.sort(random.exponential(size=(24, 3))), -random.exponential(size=24)
    teacher, mask, taught = -random.exponential(size=(24, 3)), random.integers(0, 2, 24), random.integers(0, 2, 24)
    teacher[taught == 0] = 0
    both = mask * taught
    assert 2 < both.sum() < mask.sum()
    numbers = (Needs.RANKED_LOGITS, Needs.GATHERED_LOGITS)
    answers = {need: torch.tensor(logits) for need in numbers} | {Needs.LOGPROBS: torch.tensor(logprobs)}
    rows = {"loss_mask": torch.tensor(mask), "teacher_logprobs": torch.tensor(teacher)}
    outputs = {"input_ids": ModelOutputs(torch.zeros(24, dtype=torch.long), 1, answers)}
    loss = algorithm.loss(Settings(sft_weight=0.4), outputs, rows)
    one, other = (np.exp(values) / np.exp(values).sum(-1, keepdims=True) for values in (teacher, logits))
    divergence, same = (one * np.log(one / other)).sum(-1), teacher.argmax(-1) == logits.argmax(-1)
    expected = {
        "kd_loss": (divergence @ both) / both.sum(),
        "sft_loss": -(logprobs @ mask) / mask.sum(),
        "agreement": (same @ both) / both.sum(),
    }
    figures = {name: (total / count).item() for name, (total, count) in loss.metrics.items()}
    assert figures == pytest.approx({name: expected[name] for name in algorithm.metrics}, rel=1e-6)
    whole = (divergence * both - 0.4 * logprobs * mask).sum()
    assert (loss.values @ loss.weights.double()).item() == pytest.approx(whole)
