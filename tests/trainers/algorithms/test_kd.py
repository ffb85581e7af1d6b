"""Distillation against its formula in numpy float64, value and gradient, and at points worked by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
import torch

from schemas import Column, with_columns
from schemas.errors import ConfigError
from tests.trainers import toys
from trainers.algorithm import Loss, ModelOutputs, Needs
from trainers.algorithms.kd import KD, Settings
from trainers.engine.data.batch import assemble
from trainers.engine.data.rows import Limits, TokenDataset, TokenTable

MASK = [0, 1, 1, 1, 0]
TEACHER = np.log(np.array([[0.5, 0.2, 0.1], [0.6, 0.3, 0.05], [0.9, 0.05, 0.01], [0.4, 0.3, 0.2], [0.5, 0.4, 0.1]]))


def loss_of(settings: Settings, gathered: np.ndarray, logprobs: np.ndarray) -> tuple[Loss, list[torch.Tensor]]:
    parts = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in (gathered, logprobs)]
    outputs = ModelOutputs(
        torch.tensor([0, 0, 0, 1, 1]), 2, {Needs.GATHERED_LOGITS: parts[0], Needs.LOGPROBS: parts[1]}
    )
    rows = {"loss_mask": torch.tensor(MASK), "teacher_logprobs": torch.tensor(TEACHER, dtype=torch.float64)}
    return KD.loss(settings, {"input_ids": outputs}, rows), parts


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def by_the_formula(settings: Settings, gathered: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
    teacher, student = softmax(settings.teacher_scale * TEACHER), softmax(settings.student_scale * gathered)
    weight = settings.jsd_weight
    mixture = weight * teacher + (1 - weight) * student
    distance = {
        "forward": kl(teacher, student),
        "backward": kl(student, teacher),
        "jsd": weight * kl(teacher, mixture) + (1 - weight) * kl(student, mixture),
    }[settings.direction]
    return np.asarray(settings.kd_weight * distance - settings.sft_weight * logprobs)


def kl(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray((one * np.log(one / other)).sum(-1))


@pytest.mark.parametrize("direction", ["forward", "backward", "jsd"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"sft_weight": 0.4, "kd_weight": 2.0, "student_scale": 0.5, "teacher_scale": 2.0, "jsd_weight": 0.2},
        {"sft_weight": 1.0, "kd_weight": 0.0},
    ],
)
def test_value_and_gradient_are_those_of_the_formula(
    direction: Literal["forward", "backward", "jsd"], more: dict[str, float]
) -> None:
    random = np.random.default_rng(0)
    gathered, logprobs = -random.exponential(1.5, TEACHER.shape), -random.exponential(1.5, len(TEACHER))
    settings = Settings(direction=direction, **more)  # type: ignore[arg-type]
    loss, parts = loss_of(settings, gathered, logprobs)
    np.testing.assert_allclose(loss.values.detach().numpy(), by_the_formula(settings, gathered, logprobs), rtol=1e-12)
    np.testing.assert_array_equal(loss.weights.numpy(), MASK)
    loss.values.sum().backward()
    assert parts[0].grad is not None
    for place in np.ndindex(gathered.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = gathered.copy()
            moved[place] += step
            ends.append(by_the_formula(settings, moved, logprobs).sum())
        assert math.isclose(parts[0].grad[place].item(), (ends[0] - ends[1]) / 2e-6, abs_tol=1e-8)


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    """A constant of a token's log-probabilities cancels: the teacher's own, each less 1."""
    loss, parts = loss_of(Settings(), TEACHER - 1, np.zeros(5))
    loss.values.sum().backward()
    assert parts[0].grad is not None
    np.testing.assert_allclose(loss.values.detach().numpy(), np.zeros(5), atol=1e-12)
    np.testing.assert_allclose(parts[0].grad.numpy(), np.zeros((5, 3)), atol=1e-12)
    assert loss.metrics["agreement"][0].item() == loss.metrics["agreement"][1].item() == 3


def test_both_directions_by_hand() -> None:
    """Teacher (1/2, 1/4, 1/4) and a uniform student: log 3 - 3/2 log 2 forward, 5/3 log 2 - log 3 backward; half way
    between, (5/12, 7/24, 7/24).
    """
    teacher = np.log(np.array([[0.5, 0.25, 0.25]] * 5))
    expected = {"forward": math.log(3) - 1.5 * math.log(2), "backward": 5 / 3 * math.log(2) - math.log(3)}
    ours, students = math.log(6 / 5) / 2 + math.log(6 / 7) / 2, math.log(4 / 5) / 3 + 2 * math.log(8 / 7) / 3
    expected["jsd"] = (ours + students) / 2
    for direction, value in expected.items():
        outputs = ModelOutputs(
            torch.tensor([0] * 5),
            1,
            {Needs.GATHERED_LOGITS: torch.zeros(5, 3, dtype=torch.float64), Needs.LOGPROBS: torch.zeros(5)},
        )
        rows = {"loss_mask": torch.tensor(MASK), "teacher_logprobs": torch.tensor(teacher)}
        loss = KD.loss(Settings(direction=direction), {"input_ids": outputs}, rows)  # type: ignore[arg-type]
        np.testing.assert_allclose(loss.values.numpy(), [value] * 5, rtol=1e-12)


@pytest.mark.parametrize(
    "setting", [{"kd_weight": 0.0}, {"sft_weight": -1.0}, {"student_scale": 0.0}, {"jsd_weight": 1.0}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(**setting)  # type: ignore[arg-type]


def test_columns_of_float16_are_learnt_from_to_its_precision(tmp_path: Path) -> None:
    """As `label.topk` writes them with that `dtype`: each number is kept to 1/2048 of itself, the loss to 1/1000."""
    rows = toys.rows_for(KD, 8)
    exact = -np.sort(np.random.default_rng(3).exponential(2.5, (sum(map(len, rows["input_ids"].to_pylist())), 3)))
    places = rows["teacher_logprobs"].combine_chunks()
    losses = {}
    for name, kind in ("whole", pa.float32()), ("half", pa.float16()):
        inner = pa.ListArray.from_arrays(places.values.offsets, pa.array(exact.ravel(), pa.float32()).cast(kind))
        column = pa.ListArray.from_arrays(places.offsets, inner)
        schema = KD.rows.adding(Column("teacher_logprobs", column.type, "of a teacher"))
        table = schema.conform(with_columns(rows, {"teacher_logprobs": column}))
        data = TokenDataset(toys.put(tmp_path / name, schema, table), KD, Limits(48, toys.VOCABULARY))
        batch = assemble(KD, data.rows(range(8)))
        in_memory = assemble(KD, TokenTable(table, KD, Limits(48, toys.VOCABULARY)).rows(range(8)))
        read = batch.rows["teacher_logprobs"]
        assert read.dtype == torch.float32 and torch.equal(read, in_memory.rows["teacher_logprobs"])
        random = np.random.default_rng(5)
        answers = {
            Needs.GATHERED_LOGITS: torch.tensor(random.normal(size=read.shape)),
            Needs.LOGPROBS: torch.tensor(-random.exponential(size=len(read))),
        }
        outputs = ModelOutputs(batch.spans["input_ids"].row_T, 8, answers)
        loss = KD.loss(Settings(), {"input_ids": outputs}, batch.rows)
        losses[name] = ((loss.values @ loss.weights.double()) / loss.weights.sum()).item(), read
    (whole, read), (half, rounded) = losses["whole"], losses["half"]
    assert (rounded - read).abs().le(read.abs() / 2048).all() and not torch.equal(rounded, read)
    assert half == pytest.approx(whole, rel=1e-3) and half != whole
