"""What recipes share that train a policy to be asked for a value: the reward model, and likeliest answers."""

from __future__ import annotations

import json
import math
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import luigi

from datakit.clients import Sampling
from datakit.filter import Where
from pipelines.cli import invocation
from pipelines.cli.parameters import OptionalWhole
from pipelines.cli.references import model_parameter
from pipelines.commands.algorithm_kinds import LearnsAnswers
from pipelines.commands.one_shot import OneShot, OneShotSetup, learning_over
from pipelines.commands.templated import Answering
from pipelines.graph.backend import model_at
from pipelines.graph.limits import longest_answer
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import near
from pipelines.report import suggestions
from pipelines.runtime import settings
from pipelines.stages.ask import Reading
from schemas.errors import ConfigError, printable


class Requesting(LearnsAnswers, Answering, OneShot):
    """A recipe whose policy learns answers behind what a model says of them."""

    other_formats: ClassVar[tuple[str, ...]] = ("alpaca", "dolly")
    reads = (("messages", "response", "prompt_id"),)
    needed = ("model", "data", "reward")
    asks_held_out = True

    reward = model_parameter("reward model", "scorer")
    algorithm = luigi.Parameter(default="sft", description="algorithm over answers one by one")
    learning = learning_over(optim={"lr": 1e-5})
    levels: Any
    max_new_tokens = OptionalWhole(
        description="tokens of an answer, at most; empty: half of what a row may have, 128 at most"
    )

    @property
    def requested_levels(self) -> list[float]:
        """`levels`, the values to ask for; `ConfigError` for one that the text does not say as it is."""
        return self.as_written("--levels", self.levels)

    @abstractmethod
    def written(self, level: float) -> float:
        """The number that a model reads where `level` is asked for."""

    def as_written(self, flag: str, levels: Iterable[Any]) -> list[float]:
        """`levels` of `flag` as numbers; `ConfigError` for one that would be asked for as another."""
        levels = [*levels]
        strange = [one for one in levels if isinstance(one, bool) or not isinstance(one, int | float)]
        if strange or not levels:
            raise ConfigError(
                "levels",
                f"{flag}: "
                + (f"{printable(strange[0], 80)} is no number" if strange else "there is nothing to ask for"),
                expected="numbers, as in [0, 1]",
                kept="nothing was started",
                next=invocation.without(flag),
            )
        numbers = [float(level) if abs(level) <= sys.float_info.max else math.inf for level in levels]
        wrong = next((level for level in numbers if not math.isfinite(level) or self.written(level) != level), None)
        if wrong is None:
            return numbers
        finite = [self.written(level) for level in numbers if math.isfinite(level)] or [0.0]
        raise ConfigError(
            "levels",
            f"{flag}: {wrong:g} cannot be asked for",
            expected=f"numbers as the text writes them: {', '.join(f'{level:g}' for level in dict.fromkeys(finite))}",
            found=f"{wrong!r}" + (f", which is written {self.written(wrong):g}" if math.isfinite(wrong) else ""),
            kept="nothing was started",
            next=f"--levels '{[*dict.fromkeys(finite)]}'" if flag == "--levels" else invocation.without(flag),
        )

    def uses(self, given: OneShotSetup, trained: Node) -> Iterator[str]:
        """The held-out questions at the highest level, as the policy reads them, and its likeliest answers to these."""
        asked, highest = self.graph.datasets["asked"], max(self.requested_levels)
        if not asked.manifest():
            return
        op = Where(predicate=f"subject = 0 AND requested = {highest:g}")
        plan, label = Plan(trained.root), f"{given.label}/asked-for-{highest:g}"
        requests = plan.table(label, op, plan.existing(asked.url, "dataset"), seed=settings.quiver_config().seed)
        params = json.dumps({"predicate": op.predicate})
        words = ["--op", "where", "--params", params, "--data", near(asked.url), "--name", label]
        yield suggestions.command("Filter", *words)
        bounds = self.bounds(given, tokens=self.max_new_tokens or 128)
        written = suggestions.written_as(given.reading.rendering)
        if "prompt_ids" in rows_of(asked):
            written, bounds = [], bounds[:2]
        prompts = ["--prompts", near(requests.url), *written]
        yield suggestions.command("Generate", "--model", near(trained.url), *prompts, *bounds, "--greedy")

    def reward_model(self, plan: Plan) -> Node:
        """The node of the model that scores the answers (`--reward`)."""
        return model_at(plan, self.reward, "scorer")

    def likeliest(self, reading: Reading) -> Sampling:
        """How the likeliest answer is drawn; there is room for it in rows as long as `reading` allows."""
        assert reading.max_length is not None
        tokens = longest_answer(self.max_new_tokens, 128, reading.max_length, "--max-new-tokens")
        return Sampling(greedy=True, max_new_tokens=tokens, stop=reading.rendering.stop)
