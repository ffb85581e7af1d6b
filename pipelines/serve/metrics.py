"""Counts of what was served, as Prometheus reads them (text format 0.0.4)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainers.engine.inference.continuous import Answer

_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SMOOTH = 0.9
"""Share of the mean that a new answer leaves as it is."""

TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Of one server, from its start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.answers: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.rows_scored = 0
        self.seconds_each = 1.0
        self._first = [0] * (len(_BOUNDS) + 1)
        self._first_sum = 0.0

    def count(self, answers: Sequence[Answer]) -> None:
        """Answers that are over, however they ended."""
        now = time.monotonic()
        for answer in answers:
            self.answers[answer.finish] += 1
            self.tokens["generated"] += len(answer.ids)
            if answer.first_at:
                seconds = answer.first_at - answer.asked_at
                self._first[next((at for at, bound in enumerate(_BOUNDS) if seconds <= bound), -1)] += 1
                self._first_sum += seconds
            if answer.finish in ("stop", "length"):
                self.seconds_each = _SMOOTH * self.seconds_each + (1 - _SMOOTH) * (now - answer.asked_at)

    def text(self, running: int, waiting: int) -> str:
        """The page of all counts; `running` and `waiting` answers of this moment."""
        lines = [
            *_family("quiver_requests_total", "counter", "Requests by path and status of the reply."),
            *(
                f'quiver_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self.requests.items())
            ),
            *_family("quiver_answers_total", "counter", "Answers by how they ended."),
            *(f'quiver_answers_total{{finish="{finish}"}} {n}' for finish, n in sorted(self.answers.items())),
            *_family("quiver_tokens_total", "counter", "Tokens of prompts, and of answers."),
            *(f'quiver_tokens_total{{kind="{kind}"}} {count}' for kind, count in sorted(self.tokens.items())),
            *_family("quiver_rows_scored_total", "counter", "Rows that a reward model, or echo, was asked about."),
            f"quiver_rows_scored_total {self.rows_scored}",
            *_family("quiver_answers_running", "gauge", "Answers that are being decoded."),
            f"quiver_answers_running {running}",
            *_family("quiver_answers_waiting", "gauge", "Answers that wait for a place."),
            f"quiver_answers_waiting {waiting}",
            *self._histogram(),
        ]
        return "\n".join(lines) + "\n"

    def _histogram(self) -> Iterable[str]:
        name = "quiver_time_to_first_token_seconds"
        yield from _family(name, "histogram", "From the request to its first token.")
        total = 0
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self._first, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._first_sum:.6f}"
        yield f"{name}_count {total}"


def _family(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"
