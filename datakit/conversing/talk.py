"""A conversation under way between a policy and an environment: its turns, and the tokens behind its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from datakit.clients.protocols import Turn
from datakit.templating.following import Following
from schemas import MESSAGES
from schemas.errors import ConfigError
from schemas.rows.rollouts import RESPONSE_MASK
from schemas.rows.samples import CUT, SAMPLES


@dataclass
class Talk:
    """One sample: `row` is its place among the samples, `text` all that the policy reads for its next answer. `mask` is
    1 on drawn tokens. `end` says what ended it (empty: it goes on), `fault` why it cannot be kept: reason and detail.
    """

    row: int
    messages: list[Mapping[str, Any]]
    text: str
    prompt_ids: list[int]
    response: str
    finish_reason: str
    ids: list[int]
    logprobs: list[float]
    mask: list[int]
    turns: int = 1
    reward: float = 0.0
    end: str = ""
    fault: tuple[str, str] | None = field(default=None)

    @staticmethod
    def of(samples: pa.Table) -> list[Talk]:
        """Of each of `samples`, which holds its first answer; `ConfigError` where these have no tokens."""
        names = ("messages", "prompt", "prompt_ids", "response", "finish_reason", "response_ids", "logprobs")
        made = []
        for row, (messages, text, prompt_ids, response, finish, ids, logprobs) in enumerate(
            zip(*(samples[name].to_pylist() for name in names), strict=True)
        ):
            if ids is None or logprobs is None:
                raise ConfigError(
                    "no-tokens",
                    "the generator answers in text alone, and a conversation goes on in tokens",
                    expected="a generator that gives token ids and log-probabilities",
                    kept="nothing of this chunk",
                )
            talk = Talk(row, messages, text + response, prompt_ids, response, finish, ids, logprobs, [1] * len(ids))
            made.append(talk)
        return made

    @property
    def conversation(self) -> Sequence[Mapping[str, str]]:
        """All turns up to the last answer, roles and contents."""
        turns = [{name: turn[name] for name in ("role", "content")} for turn in self.messages]
        return [*turns, {"role": "assistant", "content": self.response}]

    @property
    def all_ids(self) -> list[int]:
        """All tokens so far, those of the prompt first."""
        return [*self.prompt_ids, *self.ids]

    def goes_on(self, turn: Turn, max_turns: int) -> bool:
        """Whether another answer is asked for behind `turn`, whose reward is added in any case."""
        self.reward += turn.reward
        over = {"environment": turn.content is None, "cut": self.finish_reason == CUT, "turns": self.turns >= max_turns}
        self.end = next((why for why, is_so in over.items() if is_so), "")
        return not self.end

    def add_turn(self, turn: Mapping[str, str], behind: Following, room: float) -> None:
        """`turn`, which is written as `behind`; where that leaves the conversation at no more than `room` tokens."""
        if behind.fault:
            self.fault = ("no-turn", behind.fault)
        elif len(self.prompt_ids) + len(self.ids) + len(behind.ids) > room:
            self.end = "length"
        else:
            self.messages = [*self.messages, {"role": "assistant", "content": self.response}, dict(turn)]
            self.text += behind.text
            self.ids, self.mask = [*self.ids, *behind.ids], [*self.mask, *[0] * len(behind.ids)]
            self.logprobs = [*self.logprobs, *[0.0] * len(behind.ids)]

    def add_answer(self, answer: Mapping[str, Any]) -> None:
        """The next answer, a row of `ANSWERS`."""
        if answer["error"] is not None:
            self.fault = ("no-answer", str(answer["error"]))
            return
        self.turns, self.response, self.finish_reason = self.turns + 1, answer["response"], answer["finish_reason"]
        self.text += self.response
        self.ids, self.mask = [*self.ids, *answer["response_ids"]], [*self.mask, *[1] * len(answer["response_ids"])]
        self.logprobs = [*self.logprobs, *answer["logprobs"]]


def conversations(talks: Sequence[Talk], reward: str) -> dict[str, pa.Array]:
    """What became of `talks`, as columns of samples; `reward` is the name of what they earned."""
    columns: dict[str, tuple[list[Any], pa.DataType]] = {
        "messages": ([talk.messages for talk in talks], MESSAGES),
        "response": ([talk.response for talk in talks], pa.string()),
        "response_ids": ([talk.ids for talk in talks], SAMPLES["response_ids"].type),
        "logprobs": ([talk.logprobs for talk in talks], SAMPLES["logprobs"].type),
        "finish_reason": ([talk.finish_reason for talk in talks], pa.string()),
        RESPONSE_MASK.name: ([talk.mask for talk in talks], RESPONSE_MASK.type),
        "turns": ([talk.turns for talk in talks], pa.int32()),
        "conversation_end": ([talk.end for talk in talks], pa.string()),
        reward: ([talk.reward for talk in talks], pa.float64()),
    }
    return {name: pa.array(values, kind) for name, (values, kind) in columns.items()}
