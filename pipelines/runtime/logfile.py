"""The log file of a run, and the folder of such files. What a file cannot take for want of room is left out; the run's
own error says that, once.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pipelines.runtime import settings
from schemas.store.ownfiles import own_folder


class LogFile(logging.FileHandler):
    """A log file whose disk may be full, or gone, at any line and when it is closed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if there is room; the file is made with the first one."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Silence for a fault of the disk; logging's own report for a line that is wrong."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close, whether what is still in the buffer has room or not."""
        with suppress(OSError):
            super().close()


def log_to_file(logger: logging.Logger) -> Path:
    """What `logger` has to say of this run alone goes into the file that is returned: a new one every time; the ten
    newest are kept.
    """
    folder = logs_folder()
    own_folder(folder)
    for old in sorted(folder.glob("luigi-*.log"))[:-9]:
        with suppress(OSError):
            old.unlink(missing_ok=True)
    path = folder / f"luigi-{datetime.now():%Y%m%dT%H%M%S.%f}-{os.getpid()}.log"
    handler = LogFile(path, mode="x", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return path


def logs_folder() -> Path:
    """Where log files go: below the root of data, or in the current folder when that is remote."""
    root = settings.quiver_config().root
    return Path("quiver-logs") if "://" in root else Path(root) / "logs"
