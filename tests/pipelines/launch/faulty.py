"""The program of a rank that meets a fault, once: `FAULT=kind@step` strikes rank 1 in that step, then never again.

Kinds: `kill` (SIGKILL), `raise` (a bug), `sleep` (for ever, in the middle of a step), `wait` (long
enough to be signalled), `exit` (17, as Megatron's rerun machine ends).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from trainers.engine.training.step import Stepper
from trainers.launch import rank
from trainers.run import main

train = Stepper.train


def struck(stepper: Stepper, *given: Any, **named: Any) -> Any:
    kind, _, step = os.environ.get("QUIVER_FAULT", "none@0").partition("@")
    if kind != "none" and os.environ["RANK"] == "1" and rank._OWN and rank._OWN[0].status.at == f"step {step}":
        print(f"the fault {kind} strikes rank 1", flush=True)
        strike(kind)
    return train(stepper, *given, **named)


def strike(kind: str) -> None:
    time.sleep(1)  # what this rank is at is written from a thread
    if kind == "raise":
        raise KeyError("the fault of rank 1")
    if kind == "exit":
        sys.exit(17)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "wait":
        time.sleep(2)
    while kind == "sleep":
        time.sleep(1)


if __name__ == "__main__":
    Stepper.train = struck  # type: ignore[method-assign,assignment]
    sys.exit(main())
