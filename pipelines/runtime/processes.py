"""Workers of a pool die with their parent, whatever kills it.

A process of a pool watches a pipe to its parent: the kernel's parent-death signal would watch the forkserver instead.
(A training run is a child of another kind: `trainers.launch.child`.)
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterable
from multiprocessing import forkserver

from schemas.process.interpreter import safe_children


def preload(modules: Iterable[str]) -> None:
    """Have the fork server import once what every worker needs, `modules` too (the engine takes seconds).

    Only imports happen there, no arithmetic: a library that has started its threads must not be forked. Megatron-Core
    asks for a GPU while it is imported; through NVML that starts no CUDA, which would not outlive the fork.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    multiprocessing.set_forkserver_preload(["pipelines", *modules])
    with safe_children():
        forkserver.ensure_running()


def die_with_parent() -> None:
    """In a child of `multiprocessing`: end this process at once when its parent is gone. Idempotent."""
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == "parent-watch" for thread in threading.enumerate()):
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
