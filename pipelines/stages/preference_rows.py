"""Preference pairs as the rows that an algorithm declares: both answers of a pair side by side, or one by one."""

from __future__ import annotations

import json
from dataclasses import replace

from datakit.blend import Unpair
from datakit.filter import NotNull
from datakit.label import Logprobs
from datakit.op import Precision
from pipelines.graph.made_by import adding, logprobs_of, unsure
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import keeps_any, source_of, whole
from pipelines.stages.ask import Reading, ask, readable
from schemas.errors import ConfigError, DataError
from trainers.algorithm import Algorithm
from trainers.registry import algorithms

SIDES = ("chosen", "rejected")


def is_of_pairs(algorithm: Algorithm) -> bool:
    """Whether the algorithm reads both answers of a pair as one row."""
    return {sequence.ids for sequence in algorithm.sequences} == {f"{side}_ids" for side in SIDES}


def learns_preferences(algorithm: Algorithm) -> bool:
    """Whether `algorithm` says what reward a policy's log-probabilities are, over pairs or over answers one by one."""
    return algorithm.implicit_reward is not None


def is_feedback(rows: Node) -> bool:
    """Whether `rows` are answers that are wanted or not, one by one (FEEDBACK)."""
    return "desirable" in rows_of(rows)


def rows_for(plan: Plan, label: str, algorithm: Algorithm, pairs: Node) -> Node:
    """`pairs` (PREFERENCES or FEEDBACK) as rows of the kind that `algorithm` reads, the same rows, or the answers of
    pairs one by one; those without a value that it needs (a known reward) are set aside. `DataError` where it is known
    that this leaves none, `ConfigError` for answers one by one where pairs are read.
    """
    of_answers = [name for name, one in algorithms().items() if learns_preferences(one) and not is_of_pairs(one)]
    if is_of_pairs(algorithm) and is_feedback(pairs):
        raise ConfigError(
            "wrong-rows",
            f"{algorithm.name} learns from pairs, and {source_of(whole(pairs))} has answers judged one by one",
            expected=f"pairs (chosen, rejected), or an algorithm over answers one by one: {', '.join(of_answers)}",
            found="rows with desirable",
            kept="nothing was started",
            next=f"--algorithm {of_answers[0]}",
        )
    as_they_are = is_of_pairs(algorithm) or is_feedback(pairs)
    rows = pairs if as_they_are else plan.table(f"{label}.answers", Unpair(desirable=True), pairs)
    columns = unsure(algorithm.rows, rows_of(rows))
    if not columns:
        return rows
    op = NotNull(columns=columns)
    given = whole(rows)
    if not keeps_any(op, given):
        keys = json.dumps(dict.fromkeys(columns, "KEY"))
        raise DataError(
            "nothing-kept",
            f"{algorithm.name} reads {' and '.join(columns)} of every row, and no row has them",
            expected="rows with these keys, with others that stand for them, or an algorithm that reads pairs (dpo)",
            where=source_of(given),
            kept="nothing was started",
            next=f"--columns '{keys}'",
        )
    return plan.table(f"{label}.not-null", op, rows)


def learnt_rows(
    plan: Plan,
    label: str,
    algorithm: Algorithm,
    pairs: Node,
    reference: Node,
    reading: Reading,
    seed: int,
    *,
    precision: Precision = "fp32",
) -> Node:
    """`pairs` (PREFERENCES or FEEDBACK) as rows of `algorithm`, with the log-probabilities that the model `reference`
    gives them in `precision` (that of the training that is held against it); where it reads none, as tokens, and
    nothing is asked.

    Texts that the algorithm reads besides, each as tokens (`mismatched_ids`), come of the operations that add them.
    """
    asking, rows = replace(logprobs_of(algorithm), precision=precision), rows_for(plan, label, algorithm, pairs)
    if not is_of_pairs(algorithm):
        for sequence in algorithm.sequences[1:]:
            if sequence.text not in rows_of(rows):
                added = adding(sequence.text, rows_of(rows))
                rows = plan.table(f"{label}.{sequence.text}", added, rows, seed=seed)
    prepared = ask if algorithm.references else readable
    return prepared(plan, label, asking, rows, reference, reading=reading)


def of_pairs(who: str) -> Logprobs:
    """What `who` is asked about both answers of a pair, and the beginning of the columns that hold it."""
    columns = tuple((f"{side}_ids", f"{side}_mask", f"{who}_logprob_{side}") for side in SIDES)
    return Logprobs(columns=columns, per="row")
