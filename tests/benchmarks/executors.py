"""What it costs to run a data stage on Ray instead of processes of this machine; same bytes, two workers each.

A job of 64 shards waits the same time in every shard, as for a model that answers elsewhere, so that the ratio is what
starting, handing out and answering cost. 1,000 shards of one row are nothing but that. Printed are seconds of each
side, in turns, the median ratio, and what it takes to start a cluster of this machine, which a command does once.

    python -m tests.benchmarks.executors [--seconds 120] [--shards 1000] [--repeats 1]

Ray comes from build/ray, where `make test-slow` puts it (tests/executors/ray.txt).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from datakit.apply import apply
from datakit.run.executor import Executor
from datakit.run.on_ray import OnRay
from datakit.run.ray_cluster import own_cluster
from datakit.run.runner import Local
from schemas import PROMPTS
from schemas.dataset import Dataset
from tests.datakit.fakes import Dies
from tests.executors.program import put

ROOT = Path(__file__).resolve().parents[2]
RAY = ROOT / "build" / "ray"
WORKERS, SHARDS = 2, 64


def seconds(executor: Executor, given: Dataset, wait: float) -> tuple[float, str]:
    """How long a stage takes that waits so long in every shard, and the digest of what comes out."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        made = apply(Dies(at="none", seconds=wait), given, f"{folder}/out", executor=executor)
        return time.perf_counter() - began, made.content_digest


def compare(name: str, given: Dataset, wait: float, repeats: int) -> None:
    """Print both sides in turns and their ratio."""
    pairs = []
    for _ in range(repeats):
        (local, ours), (ray, theirs) = (seconds(one, given, wait) for one in (Local(WORKERS), OnRay(processes=WORKERS)))
        assert ours == theirs, f"{name}: other bytes on Ray"
        pairs.append((local, ray))
    local, ray = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(ray / local for local, ray in pairs)
    print(f"{name:44} local {local:7.2f} s   ray {ray:7.2f} s   ray/local {ratio:.3f}", flush=True)


def main() -> None:
    """Both jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="what the long job waits, with two workers")
    parser.add_argument("--shards", type=int, default=1000, help="of the short one")
    parser.add_argument("--repeats", type=int, default=1)
    asked = parser.parse_args()
    if not (RAY / "ray").is_dir():
        print("Ray is not in build/ray: make test-slow puts it there")
        return
    sys.path.append(str(RAY))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(RAY)])
    with tempfile.TemporaryDirectory() as folder:
        long = put(PROMPTS.example(SHARDS), f"{folder}/long", SHARDS)
        short = put(PROMPTS.example(asked.shards), f"{folder}/short", asked.shards)
        began = time.perf_counter()
        with own_cluster(WORKERS):
            print(f"{'a cluster of this machine starts in':44} {time.perf_counter() - began:.2f} s", flush=True)
            compare(
                f"{SHARDS} shards, {asked.seconds:g} s of waiting",
                long,
                asked.seconds * WORKERS / SHARDS,
                asked.repeats,
            )
            compare(f"{asked.shards:,} shards of one row", short, 0.0, asked.repeats)


if __name__ == "__main__":
    main()
