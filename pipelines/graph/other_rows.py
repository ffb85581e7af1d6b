"""What to run where no column can be added to rows, because a training learns from others than those that it was given:
pairs out of answers, answers out of pairs or of questions.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from schemas import TOKENS, Schema
from trainers.algorithm import Algorithm, Needs
from trainers.registry import algorithms

_ANSWERED = {"messages", "response", "sample_index"}
"""What answers have that were drawn, several to a question: pairs can be made of them."""
_PAIR = {"chosen", "rejected"}
_BY: dict[str, dict[str, Any]] = {"reward": {}, "correct": {"rule": "right_vs_wrong", "column": "correct"}}
"""Numbers by which answers are paired, the usual one first, with the settings of `blend.pair` that say so."""
_SEVERAL = 4
"""Answers to a question, where pairs are to be made of them."""


def recipe_of(algorithm: Algorithm) -> str:
    """The recipe that makes the rows of `algorithm` out of a file, and trains; empty where none does."""
    if algorithm.implicit_reward is not None:
        return "Preference"
    if Needs.SCORES in algorithm.needs:
        return "RewardModel" if len(algorithm.sequences) == len(_PAIR) else ""
    if "teacher_logprobs" in algorithm.rows:
        return "Distill"
    return "Sft" if {*algorithm.rows.names} <= {*TOKENS.names} else ""


def first_step(algorithm: Algorithm, rows: Schema, data: str, model: str) -> str:
    """What to run over `rows`, which the flags `data` name, towards those of `algorithm`, with the policy in the place
    `model` (empty: not known); empty where its columns can be added to these rows, or nothing is known to help.
    """
    names = {*rows.names}
    needed = {*algorithm.rows.names} - names
    if names & {sequence.lengths for one in algorithms().values() for sequence in one.sequences}:
        return of_another(algorithm, rows)  # operations read one sequence a row
    pairs, judged = "chosen_ids" in needed, "desirable" in needed
    if pairs and {"desirable", "messages"} <= names:
        return _command("Preference", "--algorithm", "kto", "--model", model or _OPEN, data=data)
    if (pairs or judged) and not names & {*_PAIR, "chosen_pieces", "chosen_ids"}:
        return _towards_pairs(algorithm, rows, data, model)
    if "input_ids" in needed and names >= _PAIR:
        params = {"desirable": True} if judged else {"sides": "chosen"}
        return _command("Blend", "--op", "unpair", "--params", json.dumps(params), data=data)
    if "input_ids" in needed and {"prompt_id", "messages"} <= names and "response" not in names:
        return _answered(data, model)
    return ""


_OPEN = "CHECKPOINT"


def _towards_pairs(algorithm: Algorithm, rows: Schema, data: str, model: str) -> str:
    """From answers: they are scored, then paired; from questions: they are answered first. Of whole conversations there
    are no pairs: they are learnt as they are.
    """
    if {*rows.names} >= _ANSWERED:
        by = next((name for name in _BY if name in rows), None)
        if by is None:
            return _command("Label", "--op", "reward", "--model", _OPEN, data=data)
        params = ["--params", json.dumps(_BY[by])] if _BY[by] else []
        return _command("Blend", "--op", "pair", *params, data=data)
    if {"prompt_id", "messages"} <= {*rows.names}:
        return _answered(data, model, "--samples-per-prompt", str(_SEVERAL))
    if "messages" in rows:
        return _command("Sft", "--model", model or _OPEN, data=data)
    return of_another(algorithm, rows)


def _answered(data: str, model: str, *more: str) -> str:
    return _command("Generate", "--model", model or _OPEN, *more, data=data.replace("--data", "--prompts", 1))


def _command(*words: str, data: str) -> str:
    return f"luigi --module pipelines {shlex.join(words)} {data}"


def of_another(algorithm: Algorithm, rows: Schema) -> str:
    """The flag of the algorithm that reads `rows`, of several one that asks the network the same as `algorithm`, then
    the one that leaves the fewest columns unread; empty where none does.
    """
    able = {name: one for name, one in algorithms().items() if {*one.reads(rows).names} <= {*rows.names}}
    best = max(able, key=lambda name: (able[name].needs == algorithm.needs, len(able[name].rows.names)), default="")
    return best and f"--algorithm {best}"
