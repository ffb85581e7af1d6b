"""Which of the ranks' errors is the run's error, and what is shown of the log of the rank that it is about.

When one rank fails, the others fail too: their collective operations lose a partner. What a rank says of itself comes
first (bad data, a loss that is not finite, our own bug), then a rank that is stuck or that died without a word; that
a rank lost touch with the others is reported only when nothing else is known.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import QuiverError, Stopped, WorkerError, printable
from schemas.run_layout import LAUNCHER_LOG, LOGS, SAVES
from trainers.launch.local import exits
from trainers.launch.rank import log_of
from trainers.launch.rank_status import PEER_LOST, RankStatus
from trainers.save_folders import SaveFolders

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
        return self.folder / LOGS / LAUNCHER_LOG

    def launcher_output(self) -> str:
        """Its part of this start."""
        return "\n".join(tail(self.launcher_log, self.sizes.get(self.launcher_log, 0), lines=500, width=2000))

    def died(self, error: QuiverError, rank: int | None, count: int = _LINES) -> LaunchResult:
        """`error` with the last lines of the rank's log (None, or where it wrote none: the launcher's)."""
        log = self.launcher_log if rank is None else log_of(self.folder / LOGS, rank)
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


def launch_result(
    present: Mapping[int, RankStatus], observations: Observations, launch: FinishedLaunch
) -> LaunchResult:
    """What is to be said of a start that is over."""
    failed = sorted((p for p in present.values() if p.code), key=lambda p: p.left)
    well = len(present) == launch.ranks and all(p.code == 0 for p in present.values())
    if well and not observations.any:
        return LaunchResult()
    if observations.stuck:
        return _stuck(observations, launch)
    own = [p for p in failed if (p.error or {}).get("slug") != PEER_LOST and p.code != Stopped.code]
    known = [p for p in own if p.code != 1]
    if known:
        return _own(known[0], launch)
    codes, named = exits(launch.launcher_output())
    dead = [rank for rank in observations.dead if codes.get(present[rank].owner.pid) != -signal.SIGTERM]
    if not (dead or own or observations.asked) and any(p.code != Stopped.code for p in failed):
        dead = sorted((rank for rank, p in present.items() if p.code is None), key=lambda rank: rank != named[0])
    if dead and not observations.asked:
        return _dead(present[dead[0]], codes, named, launch)
    if own:
        return _own(own[0], launch)
    return _rest(present, failed, observations.asked, codes, launch)


def _own(status: RankStatus, launch: FinishedLaunch) -> LaunchResult:
    error = status.known_error or QuiverError("ended", f"rank {status.rank} of {launch.what} ended with {status.code}")
    if status.code is not None and error.code != status.code:
        error.code = status.code  # type: ignore[misc]
    return launch.died(error, status.rank) if error.code in (1, 14, 16, 17) else LaunchResult(error)


def _stuck(observations: Observations, launch: FinishedLaunch) -> LaunchResult:
    first = observations.stuck[0]
    nobody = len(observations.stuck) == launch.ranks and launch.ranks > 1
    who = "no rank" if nobody else f"rank {first} of {launch.ranks}"
    places = ", ".join(f"rank {rank} at {printable(at, 40)}" for rank, at in sorted(observations.at.items())[:8])
    error = WorkerError(
        "rank-stuck",
        f"{launch.what}: {who} {'got on' if nobody else 'has not got on'} for {observations.silent_seconds:g} s",
        expected="a sign of life from every rank",
        found=places or "no rank came up",
    )
    return launch.died(error, first, _STACKS)


def _dead(status: RankStatus, codes: Mapping[int, int], named: tuple[int, str], launch: FinishedLaunch) -> LaunchResult:
    ended = codes.get(status.owner.pid, launch.code if launch.ranks == 1 else 0)
    how = f"was killed by {signal.Signals(-ended).name}" if ended < 0 else "died without a word"
    ending = f"{named[1]}, says srun" if named[0] == status.rank else f"exit code {ended or launch.code}"
    memory = ", as the system does when memory runs out" if ended == -signal.SIGKILL else ""
    error = WorkerError(
        "rank-died",
        f"{launch.what}: rank {status.rank} of {launch.ranks} {how} at {printable(status.at, 40)}",
        expected="ranks that live until the run is over",
        found=f"{ending}{memory}",
    )
    return launch.died(error, status.rank)


def _rest(
    present: Mapping[int, RankStatus],
    failed: list[RankStatus],
    asked: bool,
    codes: Mapping[int, int],
    launch: FinishedLaunch,
) -> LaunchResult:
    """Nobody failed on their own: a stop on request, ranks that lost touch, or a launcher that failed itself."""
    stopped = [p.known_error for p in failed if p.code == Stopped.code]
    if stopped or asked:
        ours = Stopped("stopped", f"{launch.what}: stopped on request", kept=kept(launch.folder), next=_AGAIN)
        return LaunchResult(next((error for error in stopped if error is not None), ours))
    if failed:
        return launch.died(
            failed[0].known_error or WorkerError(PEER_LOST, f"{launch.what} lost a rank"), failed[0].rank
        )
    missing = [rank for rank in range(launch.ranks) if rank not in present]
    signals = [ended for ended in (launch.code, *codes.values()) if ended < 0]
    if not missing or signals:
        ending = f"exit code {min(signals, default=launch.code)}"
        return launch.died(WorkerError("trainer-died", f"{launch.what} ended without a word", found=ending), None)
    bug = QuiverError("bug", f"{launch.what}: rank {missing[0]} could not start", found=f"exit code {launch.code}")
    return launch.died(bug, missing[0])


_AGAIN = "run the same command again"


def kept(folder: Path) -> str:
    """What a run in `folder` can go on from."""
    step = saved_step(folder)
    if not step:
        return "every finished stage; the run had not saved yet"
    return f"every finished stage, and steps up to {step}: the save of step {step} in {folder / SAVES}"


def saved_step(folder: Path) -> int:
    """The step of the newest complete save of a run in `folder`, 0 without one."""
    return SaveFolders(folder / SAVES).newest()


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
