"""Which saves of a run stay: the newest `keep_last`, and the `keep_best` by a figure of the validation at their step.

`best_by` names the figure (`val_loss`, `val_loss/<source>`, `val_<metric>`); the lowest is best, with a leading "-" the
highest. A save at a step that was not validated, or whose figure is not finite, is never among the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from trainers.config import Run


def best(scores: Mapping[int, float | None], number: int, by: str) -> set[int]:
    """The `number` steps with the best score; of equals the earliest."""
    sign = -1.0 if by.startswith("-") else 1.0
    ranked = sorted((sign * score, step) for step, score in scores.items() if score is not None)
    return {step for _, step in ranked[:number]}


def stay(scores: Mapping[int, float | None], run: Run) -> set[int]:
    """The steps of the saves that stay while the run goes on."""
    kept = run.execution
    return set(sorted(scores)[-kept.keep_last :]) | best(scores, kept.keep_best, kept.best_by)


def check(run: Run, known: Sequence[str] | None, last: int, validates: int) -> None:
    """`ConfigError` unless `best_by` is one of the `known` figures (None: any may be) and some save before step `last`
    will have it.
    """
    best_by = run.execution.best_by
    name = best_by.removeprefix("-")
    if run.paths.validation is not None and known is not None and name not in known:
        raise ConfigError(
            "best-by",
            f"best_by {printable(best_by)} is no figure of this validation",
            expected=f"one of {', '.join(map(printable, known))}; with a leading - the highest is best",
            kept="nothing was started",
            wrong=(name,),
            nearest=nearest(name, known),
        )
    both = math.lcm(run.execution.save_every or last, validates)
    if run.execution.keep_best and both >= last:
        raise ConfigError(
            "best-by",
            f"no save would ever be among the best: the first at a validated step is that of step {both} of {last}",
            expected="save_every and validate_every with a common multiple before the last step",
            kept="nothing was started",
        )
