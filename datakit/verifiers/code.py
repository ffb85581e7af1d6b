"""A program that passes the tests of its row, as HumanEval and MBPP have them (Chen et al. 2021, arXiv:2107.03374;
Austin et al. 2021, arXiv:2108.07732).

The gold column holds JSON: {"prompt": "def f(x): ...", "entry_point": "f", "test": "def check(f): ..."}, as the format
`code` reads it of those benchmarks' rows; `prompt` and `entry_point` may be missing. Programs run where the kernel
keeps them from everything (`datakit.confined`); where it cannot, nothing is run and the run is refused.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from datakit.confined.program import Ending, Limits, require, run
from datakit.verifiers.verifier import Verifier
from schemas.setting_faults import check_ranges
from schemas.untrusted import strict_json

if TYPE_CHECKING:
    import polars as pl

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_NEXT_STATEMENT = re.compile(r"\n(?=[^\s#])")
_AT_ONCE = 4
_NO_TASK = Ending(False, "")


@dataclass(frozen=True, kw_only=True)
class Code(Verifier):
    """Whether a response, behind the row's `prompt` where it goes on with that, passes the row's tests.

    Read is the first fenced block that defines the entry point, or the first of all, or the whole response. One that
    defines no entry point goes on with the prompt, as far as the body of that function. `seconds` are of CPU time,
    `memory` is MiB for each of at most so many `processes`. A program that is out to deceive its own tests can do that.
    """

    kind: ClassVar[str] = "code"

    seconds: float = 10.0
    memory: int = 512
    processes: int = 4

    def __post_init__(self) -> None:
        check_ranges(
            "label.verify of kind code",
            seconds=(self.seconds, 1 <= self.seconds <= 3600, "1 to 3600"),
            memory=(self.memory, 64 <= self.memory <= 1 << 16, "64 to 65536"),
            processes=(self.processes, 1 <= self.processes <= 256, "1 to 256"),
        )

    @property
    def gold(self) -> str:
        return 'JSON: {"prompt": ..., "entry_point": ..., "test": ...}'

    @property
    def reading(self) -> str:
        return "why the program does not pass"

    def require(self) -> None:
        require()

    def verdicts(self, rows: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        require()
        tasks = [_task(gold) for gold in rows["gold"]]
        most = max(1, min(_AT_ONCE, len(os.sched_getaffinity(0))))
        with ThreadPoolExecutor(most, "confined") as pool:
            endings = [*pool.map(self._ending, rows["response"], tasks)]
        columns = {
            "right": [float(ending.passed) for ending in endings],
            "read": [ending.why or None for ending in endings],
            "known": [task is not None for task in tasks],
        }
        return pl.DataFrame(columns, schema={"right": pl.Float64, "read": pl.String, "known": pl.Boolean})

    def _ending(self, response: str | None, task: Mapping[str, str] | None) -> Ending:
        if task is None:
            return _NO_TASK
        limits = Limits(seconds=self.seconds, memory=self.memory, processes=self.processes)
        return run(parts_of(response or "", task), limits)


def parts_of(response: str, task: Mapping[str, str]) -> list[str]:
    """The program of a response, the tests and the call of these: run behind each other, so that none can swallow the
    next.
    """
    name, prompt = task.get("entry_point", ""), task.get("prompt", "")
    defines = re.compile(
        rf"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(name)}\b" if name else "", re.MULTILINE
    )
    blocks = [match[1] for match in _FENCE.finditer(response)]
    code = next((block for block in blocks if defines.search(block)), blocks[0] if blocks else response)
    program = [prompt, code] if defines.search(code) else [prompt + _NEXT_STATEMENT.split(code, maxsplit=1)[0]]
    return [*filter(None, program), task["test"], *([f"check({name})"] if name else [])]


@functools.lru_cache(maxsize=256)
def _task(gold: str | None) -> Mapping[str, str] | None:
    """The texts of a gold answer; None for one that is none, or whose entry point is no name."""
    try:
        read = strict_json(gold or "")
        task = {name: read[name] for name in ("prompt", "entry_point", "test") if read.get(name) is not None}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    whole = all(isinstance(text, str) for text in task.values()) and task.get("test", "").strip()
    return task if whole and task.get("entry_point", "x").isidentifier() else None
