"""A run as a Slurm job: submitted, waited for, stopped; found again when whoever waited was killed.

How it ended is written by the watch inside the job, in `outcome.json`; Slurm's own state is asked only where that is
missing. A job that still runs when the same run is started again is waited for, not submitted twice.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from schemas.canonical import plain
from schemas.errors import QuiverError, Stopped, WorkerError, error_of
from schemas.process import slurm
from schemas.run_layout import LOGS, SLURM_LOG
from schemas.store.ownfiles import own_folder, replace_file
from trainers.launch.launch_result import kept, tail
from trainers.launch.settings import Launch
from trainers.launch.slurm import STOP, Script

_OUTCOME_SECONDS = 15.0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Job:
    """One start of a run through sbatch."""

    def __init__(self, script: Script, launch: Launch, what: str, tell: Callable[[str], None] = _tell) -> None:
        self.script, self.launch, self.what, self.tell = script, launch, what, tell
        self.number = ""
        self._asked = False
        self._until = float("inf")

    def run(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Submit it, or find it, and wait for its end; raises the run's error."""
        self.number = self._unfinished() or self._submit()
        state = ""
        try:
            while (now := self._state()) and now not in slurm.OVER:
                if now != state:
                    self.tell(f"{self.what}: Slurm job {self.number} is {now.lower()}")
                state = now
                on_wait()
                self._sleep()
        except BaseException:
            self._leave()
            raise
        self._raise(now or state)

    def stop(self) -> None:
        """Ask the ranks to save and leave; a job that has not started is cancelled."""
        if self._asked or not self.number:
            return
        self._asked = True
        self._until = time.monotonic() + self.launch.save_seconds
        (self.script.folder / STOP).touch()
        running = self._state() in ("RUNNING", "COMPLETING")
        slurm.called("scancel", *(["--signal=TERM"] if running else []), self.number)

    def _submit(self) -> str:
        script = self.script
        own_folder(script.folder)
        own_folder(script.folder / LOGS)
        for name in (STOP, "outcome.json"):
            (script.folder / name).unlink(missing_ok=True)
        replace_file(script.settings, json.dumps(plain(self.launch), indent=1))
        replace_file(script.path, script.text())
        number = slurm.submitted(script.path, self.what, kept(script.folder))
        replace_file(script.folder / "slurm.json", json.dumps({"job": number}) + "\n")
        return number

    def _unfinished(self) -> str:
        """The number of an earlier job of this run that is not over; empty if there is none."""
        try:
            number = str(json.loads((self.script.folder / "slurm.json").read_text(encoding="utf-8"))["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        state = self._state(number) if re.fullmatch(r"\d+", number) else ""
        return number if state and state not in slurm.OVER else ""

    def _state(self, number: str = "") -> str:
        """What Slurm calls the state of job `number` (this one); empty when it does not know the job any more."""
        return slurm.state_of(number or self.number, self.what, self.launch.slurm.poll_seconds)

    def _sleep(self) -> None:
        time.sleep(self.launch.slurm.poll_seconds)
        if time.monotonic() > self._until:
            slurm.called("scancel", self.number)
            self._until = float("inf")

    def _leave(self) -> None:
        """Whoever waits goes: the job saves and ends before."""
        self.stop()
        while (state := self._state()) and state not in slurm.OVER:
            self._sleep()

    def _raise(self, state: str) -> None:
        ended = self._ended()
        if ended is None:
            raise self._unknown(state)
        for text in ended["said"]:
            self.tell(text)
        if ended["code"]:
            raise error_of({**ended["error"], "code": ended["code"]})

    def _ended(self) -> dict[str, Any] | None:
        """How the job ended; a shared file system may show it a little late."""
        path, until = self.script.folder / "outcome.json", time.monotonic() + _OUTCOME_SECONDS
        while True:
            try:
                ended = json.loads(path.read_text(encoding="utf-8"))
                if str(ended["job"]) == self.number:
                    return dict(ended)
            except (OSError, ValueError, KeyError, TypeError):
                pass
            if time.monotonic() > until or self._asked:
                return None
            time.sleep(0.5)

    def _unknown(self, state: str) -> QuiverError:
        log = self.script.folder / LOGS / SLURM_LOG
        if self._asked:
            return Stopped("stopped", f"{self.what}: stopped on request", kept=kept(self.script.folder), next=_AGAIN)
        if lines := tail(log, 0):
            self.tell("\n".join([f"job {self.number}, last lines of {log}:", *(f"  | {line}" for line in lines)]))
        return WorkerError(
            "oom" if state == "OUT_OF_MEMORY" else "job-ended",
            f"{self.what}: Slurm job {self.number} ended without a word",
            found=state or "Slurm does not know the job any more",
            where=str(log),
            kept=kept(self.script.folder),
            next=_AGAIN,
        )


_AGAIN = "run the same command again"
