"""Preference pairs as the rows that an algorithm declares: both answers of a pair side by side, or one by one."""

from __future__ import annotations

from datakit.blend import Unpair
from datakit.filter import NotNull
from datakit.label import Logprobs
from pipelines.graph.made_by import adding, unsure
from pipelines.graph.nodes import Node, Table, rows_of
from pipelines.graph.plan import Plan
from pipelines.stages.ask import Reading, ask
from schemas.errors import ConfigError
from trainers.algorithm import Algorithm
from trainers.preference import SEQUENCES

REFERENCE = "ref_logprob"
"""What the column begins with in which an algorithm reads a reference's log-probability of a whole sequence."""


def is_of_pairs(algorithm: Algorithm) -> bool:
    """Whether the algorithm reads both answers of a pair as one row."""
    return algorithm.sequences == SEQUENCES


def learnt_rows(
    plan: Plan, label: str, algorithm: Algorithm, pairs: Node, reference: Node, reading: Reading, seed: int
) -> Table:
    """`pairs` (PREFERENCES) as rows of `algorithm`, with the log-probabilities that the model `reference` gives them.

    Rows without a value that it needs (a known reward) are set aside first. Texts that the algorithm reads besides,
    each as tokens (`mismatched_ids`), come of the operations that add them.
    """
    rows, asking = pairs, references(algorithm)
    if columns := unsure(algorithm.rows, rows_of(rows)):
        rows = plan.table(f"{label}.not-null", NotNull(columns=columns), rows)
    if not is_of_pairs(algorithm):
        rows = plan.table(f"{label}.answers", Unpair(desirable=True), pairs)
        for sequence in algorithm.sequences[1:]:
            text = sequence.ids.removesuffix("_ids")
            if text not in rows_of(rows):
                rows = plan.table(f"{label}.{text}", adding(text, rows_of(rows)), rows, seed=seed)
    return ask(plan, label, asking, rows, reference, reading=reading)


def references(algorithm: Algorithm) -> Logprobs:
    """The question that gives every sequence of the algorithm the reference's log-probability, in its own columns;
    `ConfigError` for one that reads neither pairs nor answers with such a column each.
    """
    if is_of_pairs(algorithm):
        return of_pairs("ref")
    declared = [name for name in algorithm.numbers if name.startswith(REFERENCE)]
    if "desirable" not in algorithm.rows or len(declared) != len(algorithm.sequences):
        raise ConfigError(
            "bad-setting",
            f"{algorithm.name} learns no preferences",
            expected="an algorithm over pairs of answers, or over answers that are wanted or not",
            found=f"it reads {algorithm.rows.name}",
            kept="nothing was started",
            next="--algorithm dpo",
        )
    columns = ((one.ids, one.mask or "", name) for one, name in zip(algorithm.sequences, declared, strict=True))
    return Logprobs(columns=tuple(columns), per="row")


def of_pairs(who: str) -> Logprobs:
    """The same for both answers of a pair, in columns that begin with `who`."""
    columns = tuple((f"{side}_ids", f"{side}_mask", f"{who}_logprob_{side}") for side in ("chosen", "rejected"))
    return Logprobs(columns=columns, per="row")
