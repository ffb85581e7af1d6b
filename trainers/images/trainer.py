"""A diffusion model in training: adapters that learn, step by step, to draw images that are rewarded.

    network (base and adapters) -> draw with gradients -> pixels -> reward -> loss -> AdamW over the adapters -> average

A reward (`reward`) sees pixels as a file would hold them, cut to 0 and 1; how many were cut is reported.

Legend: B images of a micro-batch, N of a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas.canonical import canonical
from schemas.errors import HealthError
from schemas.manifest import Manifest, Parent
from schemas.run_layout import SAVES
from trainers import schedule
from trainers.images import checkpoint, lora
from trainers.images.algorithm import Drawn
from trainers.images.checkpoint import Adapters, Claims
from trainers.images.config import ImageRun
from trainers.images.library import diffusers
from trainers.images.opening import open_network
from trainers.images.registry import configured
from trainers.images.reward import Reward, asked
from trainers.images.sampling import draw
from trainers.images.saves import Saves
from trainers.launch import rank

ROW_METRICS = ("reward", "kl", "out_of_range")
"""What is known of every image of a step besides its loss: its reward, its distance from the base, and the share of
values that had to be cut."""


@dataclass(frozen=True)
class ImageStep:
    """What a step made: the loss, its learning rate and gradient norm, of every image [N, 4] loss and `ROW_METRICS`."""

    loss: float
    lr: float
    grad_norm: float
    rows: np.ndarray

    @property
    def figures(self) -> dict[str, float]:
        """The loss and the means of `ROW_METRICS`."""
        means = self.rows[:, 1:].mean(0)
        return {"loss": self.loss, **dict(zip(ROW_METRICS, map(float, means), strict=True))}


class ImageTrainer:
    """The network of a run, its optimizer and average, and how many `steps` they made. `reward` is asked at each."""

    def __init__(self, run: ImageRun, reward: Reward, *, inputs: Sequence[Parent] = ()) -> None:
        assert run.paths.init is not None
        self.run, self.reward, self.learning, self.inputs = run, reward, run.learning, tuple(inputs)
        self.algorithm, self.settings = configured(run.learning.algorithm, run.learning.settings)
        if run.execution.threads is not None:
            torch.set_num_threads(run.execution.threads)
        self.network = open_network(
            run.paths.init, run.learning.sampler, checkpointing=run.execution.gradient_checkpointing
        )
        lora.attach(self.network.unet, run.learning.lora, run.learning.seed)
        self.weights, optim = lora.parameters(self.network.unet), run.learning.optim
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()),
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        ema = diffusers().training_utils.EMAModel
        self.average = ema(self.weights.values(), decay=run.learning.ema) if run.learning.ema else None
        self.steps, self._began = 0, time.monotonic()
        self.adapters = Adapters(lora=run.learning.lora, sampler=run.learning.sampler, base=run.base)

    def __enter__(self) -> ImageTrainer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def step(self, prompts: Sequence[str], seeds: Sequence[int]) -> ImageStep:
        """One optimizer step on an image of each prompt, each drawn from its seed. `HealthError` where the loss or the
        gradient is not finite: the weights are then as they were before it.
        """
        number = self.steps + 1
        rank.heartbeat(f"step {number}")
        self.optimizer.zero_grad(set_to_none=True)
        rows, size = list[Tensor](), self.run.execution.micro_batch_size
        for start in range(0, len(prompts), size):
            part = slice(start, start + size)
            values_B, drawn, cut_B = self.loss(prompts[part], seeds[part])
            (values_B.sum() / len(prompts)).backward()
            rows.append(torch.stack([values_B, drawn.rewards_B, drawn.kl_B, cut_B], 1).detach())
        rows_N4 = torch.cat(rows).double().cpu().numpy()
        loss = float(rows_N4[:, 0].mean())
        self._check_finite(number, "loss", loss)
        clip = self.learning.optim.clip_grad or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights.values(), clip))
        self._check_finite(number, "gradient", norm)
        rate = schedule.learning_rate(self.learning.optim, number, self.learning.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None:
            self.average.step(self.weights.values())
        self.steps = number
        return ImageStep(loss, rate, norm, rows_N4)

    def loss(self, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Drawn, Tensor]:
        """Of every image its value of the loss [B], unreduced, what that is made of, and the share of its values that
        lie below 0 or above 1 [B].
        """
        plan = self.algorithm.plan(self.settings)
        draws = draw(self.network, self.network.conditions(prompts), seeds, plan)
        rewards, cut = list[Tensor](), list[Tensor]()
        for latents in draws.latents:
            pixels = self.network.decode(latents)
            cut.append(((pixels < 0) | (pixels > 1)).flatten(1).float().mean(1))
            rewards.append(asked(self.reward, pixels.clamp(0, 1), prompts))
        drawn = Drawn(torch.stack(rewards).mean(0), draws.kl_B)
        return self.algorithm.loss(self.settings, drawn), drawn, torch.stack(cut).mean(0)

    def save(self, claims: Claims) -> Manifest:
        """Publish the adapters (their average over steps, where there is one) in the run's `out`."""
        tensors = {checkpoint.WEIGHTS: self.published()}
        seconds = round(time.monotonic() - self._began, 3)
        assert self.run.paths.init is not None
        given = Claims(**{**vars(claims), "seconds": seconds})
        return checkpoint.save(self.run.paths.out, self.adapters, tensors, given, base=self.run.paths.init)

    def published(self) -> dict[str, Tensor]:
        """The adapters that others are given."""
        if self.average is None:
            return dict(self.weights)
        return dict(zip(self.weights, self.average.shadow_params, strict=True))

    @property
    def saves(self) -> Saves:
        """The saves in the run's `work` folder."""
        made_of = {parent.name: parent.content_digest for parent in self.inputs}
        key = {"reward": self.run.reward, "task_key": self.run.paths.task_key}
        identity = canonical({"learning": self.learning, "base": self.run.base, "inputs": made_of, **key})
        assert self.run.paths.init is not None
        given: dict[str, Any] = {"base": self.run.paths.init, "keep_last": self.run.execution.keep_last}
        return Saves(self.run.paths.folder / SAVES, self.adapters, identity=identity, **given)

    def save_state(self) -> None:
        """Save what the next step depends on, for `resume`."""
        training: dict[str, Tensor] = {f"weights.{name}": one for name, one in self.weights.items()}
        if self.average is not None:
            training |= {f"average.{name}": one for name, one in self.published().items()}
        for name, one in self.weights.items():
            training |= {f"{key}.{name}": value for key, value in self.optimizer.state[one].items()}
        self.saves.write(self.steps, self.published(), training)

    def resume(self) -> int:
        """Go on from the newest whole save; the steps made until then, 0 where there is no save. What follows is bit
        for bit what a trainer that was never closed would do.
        """
        assert not self.steps, "resume before the first step"
        step, saved = self.saves.load()
        if not step:
            return 0
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in saved.items():
            key, _, of = name.partition(".")
            parts.setdefault(key, {})[of] = tensor
        lora.load(self.network.unet, parts.pop("weights"))
        averaged = parts.pop("average", {})
        if self.average is not None:
            self.average.optimization_step = step
            for name, shadow in zip(self.weights, self.average.shadow_params, strict=True):
                shadow.copy_(averaged[name])
        for name, one in self.weights.items():
            self.optimizer.state[one] = {
                key: part[name] if key == "step" else part[name].to(one.device) for key, part in parts.items()
            }
        self.steps = step
        return step

    def close(self) -> None:
        """Let go of the network."""
        self.__dict__.pop("network", None)
        self.__dict__.pop("optimizer", None)

    def _check_finite(self, number: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise HealthError(
                "not-finite",
                f"the {what} of step {number} is {value}",
                expected="a finite number",
                kept="the weights as they were before this step",
                next="look at the reward, or lower optim.lr",
            )


def prompts_of(step: int, size: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Which of `count` prompts the step `step` (from 0) of `size` images takes, each with its epoch: every epoch has
    all of them in an order of its own.
    """
    places = [divmod(place, count) for place in range(step * size, (step + 1) * size)]
    epochs = {epoch for epoch, _ in places}
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs}
    return [(int(orders[epoch][place]), epoch) for epoch, place in places]


def claims_of(run: ImageRun, task_key: str, inputs: Sequence[Parent], figures: Mapping[str, float]) -> Claims:
    """What the checkpoint of a run says of where it came from."""
    facts = {**run.paths.facts, "stats": dict(figures)}
    op = {**run.learning.op, "params": {**run.learning.op["params"], "reward": run.reward}}
    return Claims(task_key=task_key, op=op, parents=tuple(inputs), seed=run.learning.seed, facts=facts)
