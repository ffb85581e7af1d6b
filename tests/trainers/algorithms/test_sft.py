"""Supervised fine-tuning by hand."""

from __future__ import annotations

import math

import torch

from trainers.algorithm import ModelOutputs, Needs
from trainers.algorithms.sft import SFT, Settings


def test_every_counted_token_weighs_the_same() -> None:
    logprobs_T = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.5]))
    outputs = {"input_ids": ModelOutputs(torch.tensor([0, 0, 1, 1]), 2, {Needs.LOGPROBS: logprobs_T})}
    loss = SFT.loss(Settings(), outputs, {"loss_mask": torch.tensor([0, 1, 1, 1])})
    mean = (loss.values * loss.weights).sum() / loss.weights.sum()
    assert math.isclose(mean.item(), (2 + 3 + 1) * math.log(2) / 3, rel_tol=1e-6)
    assert loss.metrics == {}
