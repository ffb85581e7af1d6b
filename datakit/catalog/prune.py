"""What nothing refers to, and its removal.

A folder goes in one step: it is renamed to `_pruned-<random>` in the folder above, where no reader looks, and emptied
there; a kill in between leaves that, which the next removal ends. The folder of a training goes before its checkpoint,
so that it is never taken for one that is unfinished. Every step stands on open folders that are no links.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from datakit.catalog.disk import Piece, pieces
from datakit.catalog.kept import kept
from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.trained_on import ONLINE
from datakit.catalog.workspace import Workspace
from schemas.errors import QuiverError, printable
from schemas.run_layout import RUN_END
from schemas.store.commit import attempt_is_dead, sweep

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST = {"half removed": 0, "attempt": 1, "saves": 2, "run": 3}
"""In which order pieces go; results come last."""


@dataclass(frozen=True)
class PruneDecision:
    """Whether a piece goes, and why or why not; `busy`: somebody is at work at it."""

    piece: Piece
    goes: bool
    reason: str
    busy: bool = False


def prune_decisions(workspace: Workspace, *, runs: bool = False) -> list[PruneDecision]:
    """A decision on every piece that is a result or belongs to one, what goes in the order in which it can go.

    With `runs` folders of finished trainings go whole, their figures and curves with them.
    """
    reasons = dict(kept(workspace.entries, last_run(Lineage(workspace.entries))))
    for entry in workspace.entries if workspace.unreadable else ():
        unread = next(iter(workspace.unreadable))
        reasons.setdefault(entry.place, f"{unread} cannot be read, which may stand on it")
    judge = _Judge(workspace, reasons, runs)
    listed = [judge.decision(piece) for piece in pieces(workspace) if piece.kind not in ("logs", "other")]
    return sorted(listed, key=lambda one: _FIRST.get(one.piece.kind, len(_FIRST)))


class _Judge:
    def __init__(self, workspace: Workspace, reasons: Mapping[str, str], runs: bool) -> None:
        self._root, self._reasons, self._runs = workspace.root, reasons, runs
        stays = [one for one in workspace.entries if one.place in reasons]
        self._used = [(url, one.place) for one in stays for _, url, *_ in one.made.parents if f"{RUN_END}/" in url]

    def decision(self, piece: Piece) -> PruneDecision:
        """Whether the piece goes, and why or why not."""
        if piece.kind == "half removed":
            return PruneDecision(piece, True, "its removal was interrupted")
        if piece.kind == "attempt":
            dead = attempt_is_dead(f"{self._root}/{piece.place}", time.time())
            return PruneDecision(
                piece, dead, "left by a run that ended" if dead else "a run is at work at it", not dead
            )
        if piece.kind == "answers":
            gone = piece.entry is not None and piece.entry.place not in self._reasons
            return PruneDecision(
                piece, False, "goes with its result" if gone else "answers of models, for the next run"
            )
        if piece.kind in ("run", "saves"):
            return self._of_training(piece)
        if piece.entry is None:
            return PruneDecision(piece, False, "its manifest cannot be read")
        reason = self._reasons.get(piece.entry.place)
        return PruneDecision(piece, reason is None, reason or "of no last run, and nothing that stays stands on it")

    def _of_training(self, piece: Piece) -> PruneDecision:
        if _is_locked(self._root, piece.place.partition(RUN_END)[0] + RUN_END):
            return PruneDecision(piece, False, "a run is at work at it", True)
        if piece.entry is None:
            return PruneDecision(piece, False, "unfinished: the same command goes on from it")
        below = f"{self._root}/{piece.place}/"
        for url, place in self._used:
            if f"{url}/".startswith(below):
                return PruneDecision(piece, False, f"{place} stands on what lies in it")
        if piece.entry.place not in self._reasons:
            return PruneDecision(piece, True, "of a training whose checkpoint goes")
        if piece.kind == "saves":
            return PruneDecision(piece, True, "saves of a training that is finished")
        if piece.entry.made.op == ONLINE:
            return PruneDecision(piece, False, "the rows that the checkpoint learnt from lie in it")
        if self._runs:
            return PruneDecision(piece, True, "of a training that is finished")
        return PruneDecision(piece, False, "figures and curves of a checkpoint that stays (--runs)")


def remove(root: str, decision: PruneDecision) -> str:
    """Remove what goes; empty, or why it stays after all. The caller holds the root alone."""
    place = decision.piece.place
    try:
        if decision.piece.kind == "attempt":
            above = f"{root}/{place.rpartition('/')[0]}"
            with _opened(root, place):
                sweep(above)
        else:
            _removed(root, place, decision.piece.kind == "half removed")
    except QuiverError as error:
        return error.what
    except FileNotFoundError:
        return ""
    except OSError as error:
        return printable(error.strerror or error, 200)
    return ""


def _removed(root: str, place: str, hidden: bool) -> None:
    above, _, name = place.rpartition("/")
    with _opened(root, above) as folder:
        gone = name
        if not hidden:
            with _opened_in(folder, name) as own:
                try:
                    fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise OSError(errno.EBUSY, "another process holds it") from None
                gone = f"_pruned-{os.urandom(8).hex()}"
                os.rename(name, gone, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
        _emptied(folder, gone)
    with suppress(OSError):  # the folders above, where nothing else is in them
        while above:
            os.rmdir(f"{root}/{above}")
            above = above.rpartition("/")[0]


def _emptied(folder: int, name: str) -> None:
    """Remove the folder `name` in an open one, with all that is in it; of links the links."""
    for _, folders, files, number in os.fwalk(name, topdown=False, follow_symlinks=False, dir_fd=folder):
        for one in files:
            os.unlink(one, dir_fd=number)
        for one in folders:
            try:
                os.rmdir(one, dir_fd=number)
            except NotADirectoryError:
                os.unlink(one, dir_fd=number)
    os.rmdir(name, dir_fd=folder)


@contextmanager
def _opened(root: str, place: str) -> Iterator[int]:
    """The folder at `place` below `root`, reached through folders alone; `OSError` where one of them is a link."""
    number = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in place.split("/") if place else ():
            if part in ("", ".", ".."):
                raise OSError(errno.EINVAL, "it is no place below the root")
            below = os.open(part, _FLAGS, dir_fd=number)
            os.close(number)
            number = below
        yield number
    finally:
        os.close(number)


@contextmanager
def _opened_in(folder: int, name: str) -> Iterator[int]:
    number = os.open(name, _FLAGS, dir_fd=folder)
    try:
        yield number
    finally:
        os.close(number)


def _is_locked(root: str, place: str) -> bool:
    """Whether a process is at the run's folder."""
    try:
        with _opened(root, place) as number:
            fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def busy(listed: Sequence[PruneDecision]) -> str:
    """Where a run is at work; empty for nowhere."""
    return next((one.piece.place for one in listed if one.busy), "")
