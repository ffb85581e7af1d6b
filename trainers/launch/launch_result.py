"""Which of the ranks' errors is the run's error, and what is shown of the log of the rank that it is about.

When one rank fails, the others fail too: their collective operations lose a partner. What a rank says of itself comes
first (bad data, a loss that is not finite, our own bug), then a rank that is stuck or that died without a word; that
a rank lost touch with the others is told only when nothing else is known.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import QuiverError, Stopped, WorkerError, printable
from trainers.launch.local import exits
from trainers.launch.rank import log_of
from trainers.launch.rank_status import PEER_LOST, RankStatus

_LINES = 20
_STACKS = 60
_WIDTH = 200


@dataclass
class Observations:
    """What was seen while the run ran: ranks that `dead` took without a word, ranks that are `stuck` and what each rank
    was `at`, and whether the run was `asked` to stop.
    """

    dead: list[int] = field(default_factory=list)
    stuck: list[int] = field(default_factory=list)
    silent_seconds: float = 0.0
    at: dict[int, str] = field(default_factory=dict)
    asked: bool = False

    @property
    def any(self) -> bool:
        """Whether a rank failed on its own."""
        return bool(self.dead or self.stuck)


@dataclass(frozen=True)
class LaunchResult:
    """The run's error (None: every rank left well), and the last lines of the log that it is about."""

    error: QuiverError | None = None
    lines: str = ""


@dataclass(frozen=True)
class FinishedLaunch:
    """What is known of a start that is over: its `ranks`, the run's `folder`, the lengths of its log files when it
    began, the child's exit `code`, and `what` a person calls it.
    """

    ranks: int
    folder: Path
    sizes: Mapping[Path, int]
    code: int
    what: str

    @property
    def launcher_log(self) -> Path:
        """What torchrun or srun said."""
        return self.folder / "logs" / "launcher.log"

    def launcher_output(self) -> str:
        """Its part of this start."""
        return "\n".join(tail(self.launcher_log, self.sizes.get(self.launcher_log, 0), lines=500, width=2000))

    def died(self, error: QuiverError, rank: int | None, count: int = _LINES) -> LaunchResult:
        """`error` with the last lines of the rank's log (None, or where it wrote none: the launcher's)."""
        log = self.launcher_log if rank is None else log_of(self.folder / "logs", rank)
        lines = tail(log, self.sizes.get(log, 0), count)
        if not lines and self.launcher_log.exists():
            log, rank = self.launcher_log, None
            lines = tail(log, self.sizes.get(log, 0))
        error.where = error.where or str(log)
        error.kept = error.kept or kept(self.folder)
        error.next = error.next or (_AGAIN if error.code != 1 else "")
        if any(line.startswith(f"error[{error.code}/{error.slug}]") for line in lines):
            lines = []
        whose = "the launcher" if rank is None else f"rank {rank}"
        shown = [f"{whose}, last lines of {log}:", *(f"  | {line}" for line in lines)] if lines else []
        return LaunchResult(error, "\n".join(shown))


def launch_result(present: Mapping[int, RankStatus], evidence: Observations, case: FinishedLaunch) -> LaunchResult:
    """What is to be said of a start that is over."""
    failed = sorted((p for p in present.values() if p.code), key=lambda p: p.left)
    well = len(present) == case.ranks and all(p.code == 0 for p in present.values())
    if well and not evidence.any:
        return LaunchResult()
    if evidence.stuck:
        return _stuck(evidence, case)
    own = [p for p in failed if (p.error or {}).get("slug") != PEER_LOST and p.code != Stopped.code]
    told = [p for p in own if p.code != 1]
    if told:
        return _own(told[0], case)
    codes, named = exits(case.launcher_output())
    dead = [rank for rank in evidence.dead if codes.get(present[rank].owner.pid) != -signal.SIGTERM]
    if not (dead or own or evidence.asked) and any(p.code != Stopped.code for p in failed):
        dead = sorted((rank for rank, p in present.items() if p.code is None), key=lambda rank: rank != named[0])
    if dead and not evidence.asked:
        return _dead(present[dead[0]], codes, named, case)
    if own:
        return _own(own[0], case)
    return _rest(present, failed, evidence.asked, codes, case)


def _own(presence: RankStatus, case: FinishedLaunch) -> LaunchResult:
    error = presence.known_error or QuiverError(
        "ended", f"rank {presence.rank} of {case.what} ended with {presence.code}"
    )
    if presence.code is not None and error.code != presence.code:
        error.code = presence.code  # type: ignore[misc]
    return case.died(error, presence.rank) if error.code in (1, 14, 16, 17) else LaunchResult(error)


def _stuck(evidence: Observations, case: FinishedLaunch) -> LaunchResult:
    first = evidence.stuck[0]
    nobody = len(evidence.stuck) == case.ranks and case.ranks > 1
    who = "no rank" if nobody else f"rank {first} of {case.ranks}"
    places = ", ".join(f"rank {rank} at {printable(at, 40)}" for rank, at in sorted(evidence.at.items())[:8])
    error = WorkerError(
        "rank-stuck",
        f"{case.what}: {who} {'got on' if nobody else 'has not got on'} for {evidence.silent_seconds:g} s",
        expected="a sign of life from every rank",
        found=places or "no rank came up",
    )
    return case.died(error, first, _STACKS)


def _dead(presence: RankStatus, codes: Mapping[int, int], named: tuple[int, str], case: FinishedLaunch) -> LaunchResult:
    ended = codes.get(presence.owner.pid, case.code if case.ranks == 1 else 0)
    how = f"was killed by {signal.Signals(-ended).name}" if ended < 0 else "died without a word"
    told = f"{named[1]}, says srun" if named[0] == presence.rank else f"exit code {ended or case.code}"
    memory = ", as the system does when memory runs out" if ended == -signal.SIGKILL else ""
    error = WorkerError(
        "rank-died",
        f"{case.what}: rank {presence.rank} of {case.ranks} {how} at {printable(presence.at, 40)}",
        expected="ranks that live until the run is over",
        found=f"{told}{memory}",
    )
    return case.died(error, presence.rank)


def _rest(
    present: Mapping[int, RankStatus],
    failed: list[RankStatus],
    asked: bool,
    codes: Mapping[int, int],
    case: FinishedLaunch,
) -> LaunchResult:
    """Nobody failed on their own: a stop on request, ranks that lost touch, or a launcher that failed itself."""
    stopped = [p.known_error for p in failed if p.code == Stopped.code]
    if stopped or asked:
        ours = Stopped("stopped", f"{case.what}: stopped on request", kept=kept(case.folder), next=_AGAIN)
        return LaunchResult(next((told for told in stopped if told is not None), ours))
    if failed:
        return case.died(failed[0].known_error or WorkerError(PEER_LOST, f"{case.what} lost a rank"), failed[0].rank)
    missing = [rank for rank in range(case.ranks) if rank not in present]
    signals = [ended for ended in (case.code, *codes.values()) if ended < 0]
    if not missing or signals:
        found = f"exit code {min(signals, default=case.code)}"
        return case.died(WorkerError("trainer-died", f"{case.what} ended without a word", found=found), None)
    error = QuiverError("bug", f"{case.what}: rank {missing[0]} could not start", found=f"exit code {case.code}")
    return case.died(error, missing[0])


_AGAIN = "run the same command again"


def kept(folder: Path) -> str:
    """What a run in `folder` can go on from."""
    saves = folder / "saves"
    steps = [int(m.group(1)) for p in saves.glob("step-*") if (m := re.fullmatch(r"step-(\d+)", p.name))]
    if not steps:
        return "every finished stage; the run had not saved yet"
    return f"every finished stage and the save of step {max(steps)}, in {saves}"


def tail(log: Path, start: int, lines: int = _LINES, width: int = _WIDTH) -> list[str]:
    """The last lines that `log` holds behind byte `start`, safe on a terminal."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - 65536))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [printable(line, width) for line in text.splitlines() if line.strip()][-lines:]
