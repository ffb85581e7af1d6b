"""generate.converse: conversations of a policy with an environment, turn by turn, in the tokens that were drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.clients.protocols import Environment
from datakit.clients.sampling import Sampling
from datakit.columns.rejections import set_aside
from datakit.conversing.talk import Talk, conversations
from datakit.generate.complete import Complete, seed_of, words_of
from datakit.op import Context, Result, Size
from datakit.templating.following import following
from datakit.templating.ops import renderer_of
from datakit.templating.rendering import Rendering
from schemas import Column, Schema
from schemas.canonical import json_digest
from schemas.errors import ConfigError
from schemas.rows.rollouts import RESPONSE_MASK
from schemas.rows.samples import SAMPLES
from schemas.rows.usage import USAGE_NAMES
from schemas.settings import at_least, bound_faults


@dataclass(frozen=True, kw_only=True)
class Converse(Complete):
    """Each prompt becomes `sampling.samples_per_prompt` conversations. Behind every answer the environment is asked: it
    says what the next turn is, or that the conversation is over, and what the answer earned.

    A sample is a whole conversation: `response_ids` are all tokens behind the prompt, `response_mask` is 1 on those
    that were drawn and 0 on those of other turns (whose `logprobs` are 0), `messages` is the conversation before its
    last answer, `response` and `finish_reason` are that answer's, `turns` counts answers, and `reward` names the column
    of the sum of what they earned. It goes on until the environment ends it, an answer is cut, there are `max_turns`
    answers, or the next turn and an answer of `max_new_tokens` would make it longer than `max_length` tokens
    (`conversation_end`: environment, cut, turns, length).

    Turns are written by the template of the prompts (`template`, `options` and `date` as in `Rendering`). A draw is a
    function of the run's seed, prompt, sample index and turn. A conversation of which an answer fails is rejected
    (`no-answer`), and one whose turn the template cannot write (`no-turn`).
    """

    name: ClassVar[str] = "generate.converse"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("generator", "environment", "tokenizer")

    max_turns: int = field(default=8, metadata=at_least(1))
    max_length: int | None = field(default=None, metadata=at_least(1))
    reward: str = "reward"
    template: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None

    def __post_init__(self) -> None:
        faults = bound_faults(self)
        if not self.reward or self.reward in SAMPLES:
            faults.append("reward is no name of a new column")
        if faults:
            raise ConfigError("bad-setting", "; ".join(faults), where=self.name, kept="nothing was started")
        object.__setattr__(self, "options", self.writing.options)

    @property
    def writing(self) -> Rendering:
        """How turns of the environment are written."""
        return Rendering(template=self.template, options=self.options, date=self.date)

    @property
    def takes(self) -> Schema:
        """The prompt and the conversation that it is the text of."""
        names = ("prompt_id", "messages", "prompt", "prompt_ids")
        return Schema("prompts", 1, tuple(SAMPLES[name] for name in names), key=("prompt_id",))

    def gives(self, *inputs: Schema) -> Schema:
        """As `generate.complete`, and what is known of the conversation."""
        given = super().gives(*inputs)
        return given.adding(
            RESPONSE_MASK,
            Column("turns", pa.int32(), "answers of the conversation"),
            Column("conversation_end", pa.string(), "what ended it: environment, cut, turns, length"),
            Column(self.reward, pa.float64(), "the sum of what the environment gave", finite=True),
        )

    def with_outputs(self, outputs: Mapping[str, tuple[str, ...]]) -> Complete:
        """What one request took says nothing of a conversation."""
        given = {name: tuple(one for one in columns if one not in USAGE_NAMES) for name, columns in outputs.items()}
        return super().with_outputs(given)

    def grown(self, given: Size) -> Size:
        one = super().grown(given)
        return Size(one.rows, given.bytes * self.sampling.samples_per_prompt + one.bytes * self.max_turns)

    def drawn_by(self, sampling: Sampling, ctx: Context) -> str:
        limits = (self.max_turns, self.max_length)
        return json_digest([super().drawn_by(sampling, ctx), *limits, self.writing, ctx.keys["environment"]])

    def expand(self, rows: pa.Table, ctx: Context) -> Result:
        """All conversations of the rows side by side, a turn at a time."""
        drawn = super().expand(rows, ctx)
        talks = Talk.of(drawn.rows)
        live: Sequence[Talk] = talks
        while live := self._carried_on(live, drawn.rows, ctx):
            self._answered(live, drawn.rows, ctx)
        made = drawn.rows
        for name, column in conversations(talks, self.reward).items():
            at = made.schema.get_field_index(name)
            made = made.append_column(name, column) if at < 0 else made.set_column(at, name, column)
        good = pa.array([talk.fault is None for talk in talks], pa.bool_())
        made, failed = made.filter(good), drawn.rows.filter(pc.invert(good))
        reasons, details = zip(*(talk.fault for talk in talks if talk.fault), strict=True) if len(failed) else ([], [])
        index = failed["sample_index"].cast(pa.float64())
        failed = set_aside(failed.select(rows.column_names), pa.array(reasons, pa.string()), index, words_of(details))
        rejected = failed if drawn.rejected is None else pa.concat_tables([drawn.rejected, failed])
        counts = {"response_tokens": pc.sum(pc.list_flatten(made[RESPONSE_MASK.name])).as_py() or 0}
        return Result(made, rejected, {**counts, "turns": pc.sum(made["turns"]).as_py() or 0})

    def _carried_on(self, talks: Sequence[Talk], rows: pa.Table, ctx: Context) -> list[Talk]:
        """Those that go on, with the next turn behind them; what their last answers earned is added to all."""
        if not talks:
            return []
        environment, tokenizer = ctx.resources["environment"], ctx.resources["tokenizer"]
        assert isinstance(environment, Environment), f"{type(environment).__name__} is no Environment"
        asked = environment.takes.conform(rows.take(pa.array([talk.row for talk in talks])), "what it reads")
        replies = environment.reply([talk.conversation for talk in talks], asked)
        going = [(talk, turn) for talk, turn in zip(talks, replies, strict=True) if talk.goes_on(turn, self.max_turns)]
        turns = [{"role": turn.role, "content": turn.content or ""} for _, turn in going]
        written = following(renderer_of(self.writing, ctx), tokenizer, turns) if going else []
        room = np.inf if self.max_length is None else self.max_length - self.sampling.max_new_tokens
        for (talk, _), turn, behind in zip(going, turns, written, strict=True):
            talk.add_turn(turn, behind, room)
        return [talk for talk, _ in going if not talk.end and not talk.fault]

    def _answered(self, talks: Sequence[Talk], rows: pa.Table, ctx: Context) -> None:
        """The next answer of each."""
        places = pa.array([talk.row for talk in talks])
        asked = rows.select([name for name in rows.column_names if name not in ("prompt", "prompt_ids")]).take(places)
        asked = asked.append_column("prompt", pa.array([talk.text for talk in talks], pa.string()))
        asked = asked.append_column("prompt_ids", pa.array([talk.all_ids for talk in talks], pa.list_(pa.int32())))
        names = zip(asked["prompt_id"].to_pylist(), asked["sample_index"].to_pylist(), talks, strict=True)
        seeds = [seed_of(ctx.seed, name, "turn", str(index), str(talk.turns)) for name, index, talk in names]
        sampling = replace(self.ending(ctx), samples_per_prompt=1)
        answers = self.asked(asked, sampling, np.array(seeds, np.uint64), ctx).to_pylist()
        for talk, answer in zip(talks, answers, strict=True):
            talk.add_answer(answer)
