"""A worker of `multiprocessing` ends with its parent, whatever ended that.

It watches the pipe to its parent: the kernel's parent-death signal would watch the fork server instead. (A training run
is a child of another kind: `trainers.launch.child`; the child that runs SQL has a folder to clear away:
`datakit.duck.sql_worker`.)
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

_NAME = "quiver-parent-watch"


def end_with_parent() -> None:
    """In a child of `multiprocessing`: kill this process at once when its parent is gone. Idempotent."""
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _NAME for thread in threading.enumerate()):
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name=_NAME, daemon=True).start()
