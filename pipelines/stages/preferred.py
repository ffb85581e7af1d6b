"""Preference pairs as the rows that an algorithm declares: both answers of a pair side by side, or one by one."""

from __future__ import annotations

import json

from datakit.blend import Unpair
from datakit.filter import NotNull
from datakit.label import Logprobs
from pipelines.graph.made_by import adding, unsure
from pipelines.graph.nodes import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import keeps_any, source_of, whole
from pipelines.stages.ask import Reading, ask, readable
from schemas.errors import ConfigError, DataError
from trainers.algorithm import Algorithm
from trainers.preference import SEQUENCES

REFERENCE = "ref_logprob"
"""What the column begins with in which an algorithm reads a reference's log-probability of a whole sequence."""


def is_of_pairs(algorithm: Algorithm) -> bool:
    """Whether the algorithm reads both answers of a pair as one row."""
    return algorithm.sequences == SEQUENCES


def learns_preferences(algorithm: Algorithm) -> bool:
    """Whether `algorithm` reads pairs, or answers that are wanted or not."""
    try:
        return bool(question(algorithm))
    except ConfigError:
        return False


def rows_for(plan: Plan, label: str, algorithm: Algorithm, pairs: Node) -> Node:
    """`pairs` (PREFERENCES) as rows of the kind that `algorithm` reads, the same pairs or answers one by one; those
    without a value that it needs (a known reward) are set aside. `DataError` where it is known that this leaves none.
    """
    rows = pairs if is_of_pairs(algorithm) else plan.table(f"{label}.answers", Unpair(desirable=True), pairs)
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
            expected="rows with these keys, or with others that stand for them",
            where=source_of(given),
            kept="nothing was started",
            next=f"--columns '{keys}' where the files call them otherwise, or --algorithm dpo",
        )
    return plan.table(f"{label}.not-null", op, rows)


def learnt_rows(
    plan: Plan, label: str, algorithm: Algorithm, pairs: Node, reference: Node, reading: Reading, seed: int
) -> Node:
    """`pairs` (PREFERENCES) as rows of `algorithm`, with the log-probabilities that the model `reference` gives them;
    where it reads none, as tokens, and nothing is asked.

    Texts that the algorithm reads besides, each as tokens (`mismatched_ids`), come of the operations that add them.
    """
    asking, rows = question(algorithm), rows_for(plan, label, algorithm, pairs)
    if not is_of_pairs(algorithm):
        for sequence in algorithm.sequences[1:]:
            text = sequence.ids.removesuffix("_ids")
            if text not in rows_of(rows):
                rows = plan.table(f"{label}.{text}", adding(text, rows_of(rows)), rows, seed=seed)
    prepared = ask if references(algorithm) else readable
    return prepared(plan, label, asking, rows, reference, reading=reading)


def references(algorithm: Algorithm) -> tuple[str, ...]:
    """The columns in which the algorithm reads a reference's log-probabilities, one for each sequence; often none."""
    return tuple(name for name in algorithm.numbers if name.startswith(REFERENCE))


def question(algorithm: Algorithm) -> Logprobs:
    """What a reference is asked about every sequence of the algorithm; for one without `references` it only says which
    tokens rows are to hold. `ConfigError` for one that reads neither pairs nor answers that are wanted or not, or a
    reference of some of its sequences.
    """
    declared, sequences = references(algorithm), algorithm.sequences
    of_answers = is_of_pairs(algorithm) or "desirable" in algorithm.rows
    if not of_answers or len(declared) not in (0, len(sequences)):
        raise ConfigError(
            "bad-setting",
            f"{algorithm.name} learns no preferences",
            expected="an algorithm over pairs of answers, or over answers that are wanted or not",
            found=f"it reads {algorithm.rows.name}",
            kept="nothing was started",
            next="--algorithm dpo",
        )
    names = declared or tuple(f"{REFERENCE}_{one.ids}" for one in sequences)
    columns = ((one.ids, one.mask or "", name) for one, name in zip(sequences, names, strict=True))
    return Logprobs(columns=tuple(columns), per="row")


def of_pairs(who: str) -> Logprobs:
    """What `who` is asked about both answers of a pair, and the beginning of the columns that hold it."""
    columns = tuple((f"{side}_ids", f"{side}_mask", f"{who}_logprob_{side}") for side in ("chosen", "rejected"))
    return Logprobs(columns=columns, per="row")
