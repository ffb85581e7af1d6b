"""TensorBoard: an event file of scalars in `<folder>/tensorboard`, written in this thread.

A later start writes a file of its own that begins with TensorBoard's mark of a restart at `Facts.first` + 1: readers
then drop what earlier files hold of that step and later ones.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from schemas.run_layout import TENSORBOARD
from schemas.store.ownfiles import own_folder
from trainers.engine.reporting.trackers.tracker import Cell, Facts, Status


class TensorBoard:
    """`tensorboard --logdir <folder>/tensorboard` shows it."""

    name: ClassVar[str] = "tensorboard"
    package: ClassVar[str] = "tensorboard"

    def start(self, facts: Facts) -> None:
        """A new event file; its name carries the time, so that readers take the files in order."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder = facts.folder / TENSORBOARD
        own_folder(facts.folder)
        own_folder(folder)
        place = f"{time.time_ns() // 10**9:010d}.{time.time_ns() % 10**9:09d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / f"events.out.tfevents.{place}").open("xb")
        self._writer = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=facts.first + 1, session_log=SessionLog(status=SessionLog.START))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One event with a scalar per figure."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(step=step, summary=self._summary(value=values))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Nothing: it has curves; tables stand in the page of the run."""

    def close(self, status: Status) -> None:
        """Close the file of events; it has no place for the status."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        self._writer.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()
