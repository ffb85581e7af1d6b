"""An engine in this process as a `Generator` and a `TokenModel`: token ids in, token ids and log-probabilities out.

An engine is two methods (`TokenEngine`). Which prompts can have an answer, what ends one and what its text is, is
decided as for our own sampler (`trainers.engine.inference.answer_texts`): the same tokens are the same answer. Every
answer is a request of its own, with the prompt's base seed + its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.clients import ANSWERS, Sampling
from datakit.clients.protocols import TokenRows
from datakit.clients.seeds import base_seed
from schemas.errors import ConfigError, DataError, ServiceError

if TYPE_CHECKING:
    from trainers.engine.inference.answer_texts import AnswerTexts, StopTexts

_NUMBERS = pa.list_(pa.float32())


@dataclass(frozen=True)
class Draw:
    """One answer that is asked for: to the tokens `ids`, of at most `room` tokens, drawn with `seed`."""

    ids: list[int]
    room: int
    seed: int


@dataclass(frozen=True)
class Drawn:
    """One answer: its tokens, the one that ended it among them; the log-probability (nats) of each under the whole
    distribution at temperature 1; and why it ended, `stop` or `length`, or in the engine's own word why it did not.
    """

    ids: list[int]
    logprobs: list[float]
    finish: str


class TokenEngine(Protocol):
    """What an engine has to do."""

    def draw(
        self, asked: Sequence[Draw], sampling: Sampling, texts: Sequence[str], ids: Sequence[int]
    ) -> Sequence[Drawn]:
        """An answer to each of `asked`, in their order, ended by any of `texts` or of the tokens `ids` and by nothing
        else; all that is asked at once is computed in as large batches as there is memory for.
        """
        ...

    def read(self, rows: Sequence[list[int]], top: int) -> Sequence[Sequence[Mapping[int, float]]]:
        """Of each row, at every token but the first, log-probabilities (nats, temperature 1) by id: of that token and
        of the `top` likeliest (none where it is 0).
        """
        ...

    def close(self) -> None:
        """End what it started, and let go of the memory that it took of each GPU."""
        ...


@dataclass(frozen=True)
class EngineClient:
    """A model of `engine`. `compared` is what was found when it was held against our own network."""

    engine: TokenEngine
    texts: AnswerTexts
    compared: Mapping[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Let the engine end what it started."""
        self.engine.close()


class EngineGenerator(EngineClient):
    """A policy that answers prompts."""

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: npt.NDArray[np.uint64]) -> pa.Table:
        """Answers (`ANSWERS`) to `rows`, prompt by prompt, all asked of the engine at once."""
        prompts = [np.asarray(ids, np.int64) for ids in rows["prompt_ids"].to_pylist()]
        faults = [self.texts.fault(ids) for ids in prompts]
        stops = self.texts.stop_texts(sampling.stop)
        each = range(sampling.samples_per_prompt)
        asked = [
            Draw(ids.tolist(), self.texts.room(ids, sampling.max_new_tokens), base_seed(int(seed)) + number)
            for ids, seed, fault in zip(prompts, seeds, faults, strict=True)
            if fault is None
            for number in each
        ]
        drawn = iter(self._drawn(asked, sampling, stops))
        made: list[dict[str, Any]] = []
        for row, (ids, fault) in enumerate(zip(prompts, faults, strict=True)):
            for number in each:
                answer = _failed(fault) if fault else self._row(next(drawn), self.texts.goes_on_inside(ids), stops)
                made.append({"prompt_row": row, "sample_index": number, **answer})
        arrays = [pa.array([one.get(column.name) for one in made], column.type) for column in ANSWERS.columns]
        return pa.Table.from_arrays(arrays, schema=ANSWERS.arrow)

    def _drawn(self, asked: Sequence[Draw], sampling: Sampling, stops: StopTexts) -> Sequence[Drawn]:
        if not asked:
            return ()
        drawn = self.engine.draw(asked, sampling, stops.texts, np.flatnonzero(stops.ends).tolist())
        if len(drawn) != len(asked):
            raise _miscounted("answers", len(asked), len(drawn))
        return drawn

    def _row(self, answer: Drawn, inside: bool, stops: StopTexts) -> dict[str, Any]:
        ids, known = answer.ids, self.texts.known | stops.ends
        if answer.finish not in ("stop", "length"):
            return _failed(f"the engine ended the answer: {answer.finish}")
        strange = next((number for number in ids if not (0 <= number < len(known) and known[number])), None)
        if strange is not None:
            return _failed(f"the token id {strange} is none of the tokenizer's")
        if not ids or len(answer.logprobs) != len(ids):
            return _failed(f"{len(answer.logprobs)} log-probabilities of {len(ids)} tokens")
        end = _end(ids, inside, stops)
        finish, ids = ("stop", ids[:end]) if end else (answer.finish, ids)
        [text] = stops.answer_texts([ids], [finish == "stop"], [inside])
        logprobs = answer.logprobs[: len(ids)]
        return {"response_ids": ids, "logprobs": logprobs, "response": text, "finish_reason": finish}


class EngineTokenModel(EngineClient):
    """A language model that is asked about given tokens."""

    def logprobs(self, rows: TokenRows) -> pa.Array:
        """Log-probability of every token: list<float32>, 0 at the first."""
        read = self._read(rows, 0)
        made = [
            [0.0, *(at.get(number, float("nan")) for at, number in zip(one, row[1:].tolist(), strict=True))]
            for one, row in zip(read, rows, strict=True)
        ]
        return pa.array(made, _NUMBERS)

    def top_k(self, rows: TokenRows, k: int) -> tuple[pa.Array, pa.Array]:
        """The k likeliest ids at every token, likeliest first, and their log-probabilities; both 0 at the first."""
        ids: list[list[list[int]]] = []
        values: list[list[list[float]]] = []
        for read in self._read(rows, k):
            ranked = [sorted(at.items(), key=lambda pair: (-pair[1], pair[0]))[:k] for at in read]
            if any(len(one) < k for one in ranked):
                raise _miscounted("likeliest ids at a token", k, min(len(one) for one in ranked))
            ids.append([[0] * k, *([number for number, _ in one] for one in ranked)])
            values.append([[0.0] * k, *([value for _, value in one] for one in ranked)])
        return pa.array(ids, pa.list_(pa.list_(pa.int32()))), pa.array(values, pa.list_(_NUMBERS))

    def _read(self, rows: TokenRows, top: int) -> Sequence[Sequence[Mapping[int, float]]]:
        vocab_size, longest = len(self.texts.ends), self.texts.longest
        for number, ids in enumerate(rows):
            if not 0 < len(ids) < longest or ids.min() < 0 or ids.max() >= vocab_size:
                raise DataError(
                    "cannot-score",
                    f"row {number} cannot be scored by an engine, which reads a token less than the model",
                    expected=f"1 to {longest - 1} tokens, ids in 0 .. {vocab_size - 1}",
                    found=f"{len(ids)} tokens, ids {ids.min(initial=0)} .. {ids.max(initial=0)}",
                )
        longer = [number for number, ids in enumerate(rows) if len(ids) > 1]
        read = self.engine.read([rows[number].tolist() for number in longer], top) if longer else ()
        if len(read) != len(longer):
            raise _miscounted("rows", len(longer), len(read))
        made: list[Sequence[Mapping[int, float]]] = [() for _ in rows]
        for number, one in zip(longer, read, strict=True):
            if len(one) != len(rows[number]) - 1:
                raise _miscounted("tokens of a row behind its first", len(rows[number]) - 1, len(one))
            made[number] = one
        return made

    def entropies(self, rows: TokenRows) -> NoReturn:
        """No engine says it: `ConfigError`."""
        raise _never("the entropy at a token")

    def values(self, rows: TokenRows) -> NoReturn:
        """No engine says them: `ConfigError`."""
        raise _never("the number of a scalar head at a token")

    def logprobs_at(self, rows: TokenRows, ids: TokenRows) -> NoReturn:
        """No engine says them: `ConfigError`."""
        raise _never("the log-probabilities of named ids")


def _end(ids: Sequence[int], inside: bool, stops: StopTexts) -> int:
    """How many of `ids` our own sampler would have drawn before it ended the answer; 0 where nothing in it is an end.
    Some engines look for a stop text among tokens alone, and go on where it came in others.
    """
    drawn = np.asarray(ids, np.int32)
    for at in np.flatnonzero(stops.ends[drawn] | stops.may_end[drawn]).tolist():
        if stops.ends[drawn[at]] or stops.ends_in(drawn[: at + 1], inside):
            return int(at) + 1
    return 0


def _failed(words: str) -> dict[str, Any]:
    return {"finish_reason": "error", "error": words}


def _miscounted(what: str, asked: int, given: int) -> ServiceError:
    return ServiceError(
        "bad-reply",
        f"the engine's reply cannot be used: asked for {asked} {what}, got {given}",
        expected=str(asked),
        found=str(given),
        kept="finished chunks; no answer was made up",
        next="ask the checkpoint itself: leave out what stands before the colon of --model",
    )


def _never(what: str) -> ConfigError:
    return ConfigError("no-capability", f"an engine does not say {what}", kept="nothing was started")
