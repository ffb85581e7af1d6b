"""A program that interrupts runs: `python -m tests.trainers.interruptions FOLDER SEED NUMBER...` plays these points.

It imports the engine once and forks the processes of every run, so a point costs about a second. A point is one run
with a signal at a chosen place, real SIGKILL or SIGTERM, and the same run started again, at the same layout or another.
The first run of all is left alone. FOLDER holds the dataset `tokens`; every run gets a folder of its own in it.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STEPS, EPOCH = 8, 3
PLACES = ("first step", "mid-epoch", "end of epoch", "last step", "saving", "publishing")
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "1": (1, {}),
    "TP2": (2, {"parallel": {"tensor": 2}}),
    "TP2 SP": (2, {"parallel": {"tensor": 2, "sequence": True}}),
    "PP2": (2, {"parallel": {"pipeline": 2}}),
    "DP2": (2, {"micro_batch_tokens": 60}),
    "DP2 dealt": (2, {"parallel": {"distributed_optimizer": True}}),
}
"""Processes and settings by name; `dealt` is the distributed optimizer."""
MOVES = (("TP2", "PP2"), ("TP2 SP", "DP2"), ("DP2 dealt", "1"), ("PP2", "TP2"), ("1", "DP2 dealt"), ("DP2", "TP2"))


@dataclass(frozen=True)
class Point:
    """Signal `name` at `place` (in that step, or in that save) of rank `rank`, at layout `before`, then `after`."""

    number: int
    place: str
    step: int
    name: str
    rank: int
    before: str
    after: str
    background: bool

    def __str__(self) -> str:
        saves = "async" if self.background else "sync"
        layouts = self.before if self.before == self.after else f"{self.before} then {self.after}"
        return f"{self.place} {self.step}, {self.name} to rank {self.rank}, {saves} saves, {layouts}"


def points(seed: int) -> list[Point]:
    """24 points: each place with each signal, in one process and from one layout to another; and two at two ranks."""
    draw, drawn = random.Random(seed), list[Point]()
    for place in PLACES:
        for name in ("SIGTERM", "SIGKILL"):
            for before, after in (("1", "1"), MOVES[len(drawn) // 2 % len(MOVES)]):
                drawn.append(_point(draw, len(drawn), place, name, before, after))
    for name, layout in (("SIGKILL", "DP2 dealt"), ("SIGTERM", "TP2")):
        drawn.append(_point(draw, len(drawn), "saving", name, layout, layout))
    return drawn


def _point(draw: random.Random, number: int, place: str, name: str, before: str, after: str) -> Point:
    steps = {"first step": [1], "mid-epoch": [2, 5], "end of epoch": [3, 6], "last step": [STEPS], "saving": [1, 2, 3]}
    rank = 0 if place == "publishing" else draw.randrange(LAYOUTS[before][0])
    return Point(number, place, draw.choice(steps.get(place, [STEPS])), name, rank, before, after, draw.random() < 0.5)


def arm(point: Point) -> None:
    """Send this process the signal at the point's place."""
    from schemas.store.local import LocalStore
    from trainers.engine.checkpoint import checkpoint_writer
    from trainers.engine.training import step

    def strike() -> None:
        os.kill(os.getpid(), getattr(signal, point.name))

    if point.place == "publishing":
        put = LocalStore.put_if_absent

        def published(self: LocalStore, path: str, data: bytes, scratch: str) -> bool:
            if path.endswith("policy/_manifest.json"):
                strike()
            return put(self, path, data, scratch)

        LocalStore.put_if_absent = published  # type: ignore[method-assign]
    elif point.place == "saving":
        write, parts = checkpoint_writer.Part.write, iter(range(1, 1000))

        def written(self: checkpoint_writer.Part) -> Any:
            results = write(self)
            if next(parts) == 2 * point.step - 1:  # the weights are there, the optimizer's state is not
                strike()
            return results

        checkpoint_writer.Part.write = written  # type: ignore[method-assign]
    else:
        train, calls = step.Stepper.train, iter(range(1, 1000))

        def trained(self: step.Stepper, *given: Any, **named: Any) -> Any:
            if next(calls) == point.step:
                strike()
            return train(self, *given, **named)

        step.Stepper.train = trained  # type: ignore[method-assign]


def launch(config: str, log: Path, world: int, point: Point | None = None) -> list[int]:
    """Run `config` in `world` forked processes; their exit codes. When one dies of a signal, so do the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork(config, log, rank, world, port, point) for rank in range(world)]
    codes: dict[int, int] = {}
    end = time.monotonic() + 120
    while len(codes) < world:
        for child in set(children) - codes.keys():
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                codes[child] = os.waitstatus_to_exitcode(status)
        if any(code < 0 for code in codes.values()) or time.monotonic() > end:
            for child in set(children) - codes.keys():
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[child] for child in children]


def _fork(config: str, log: Path, rank: int, world: int, port: int, point: Point | None) -> int:
    child = os.fork()
    if child:
        return child
    try:
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 2)
        if world > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
        if point is not None and point.rank == rank:
            arm(point)
        from trainers import run

        os._exit(run.main([config]))
    finally:
        os._exit(99)


def play(folder: Path, seed: int, numbers: set[int]) -> Iterator[dict[str, Any]]:
    """The points of these numbers: the exit codes of both runs."""
    for layout in ("1", "DP2 dealt", "TP2"):
        path = folder / f"undisturbed {layout}"
        yield {"undisturbed": layout, "codes": launch(_config(folder, path, layout), path / "log", LAYOUTS[layout][0])}
    for point in points(seed):
        if point.number not in numbers:
            continue
        path, began = folder / str(point.number), time.monotonic()
        settings = {"save_every": 2, "save_async": point.background}
        first = launch(_config(folder, path, point.before, **settings), path / "log", LAYOUTS[point.before][0], point)
        second = launch(_config(folder, path, point.after, **settings), path / "log", LAYOUTS[point.after][0])
        yield {"point": asdict(point), "codes": [first, second], "seconds": time.monotonic() - began}


def _config(folder: Path, path: Path, layout: str, **changes: Any) -> str:
    from tests.trainers import toys

    places = {"data": str(folder / "tokens"), "out": str(path / "policy"), "max_steps": STEPS}
    changes |= {"threads": 1, "track": []}
    return toys.written(path / "run.json", toys.config(folder, **places, **LAYOUTS[layout][1], **changes))


def main() -> None:
    """Play what is asked for; the answers go to FOLDER/answers.json."""
    for late in ("torch._dynamo", "trainers.engine.training.loop"):  # once, for all forks
        importlib.import_module(late)

    folder, seed, numbers = Path(sys.argv[1]), int(sys.argv[2]), {int(number) for number in sys.argv[3:]}
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert len(threads - {"jemalloc_bg_thd"}) <= 1, f"not to be forked: {threads}"  # jemalloc's survives a fork
    (folder / "answers.json").write_text(json.dumps(list(play(folder, seed, numbers))))


if __name__ == "__main__":
    main()
