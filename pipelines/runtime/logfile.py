"""The log file of a run: what it cannot take for want of room is left out; the run's own error says that, once."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress


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
