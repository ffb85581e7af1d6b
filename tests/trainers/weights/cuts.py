"""Logits of many checkpoints, cut over two processes by tensor and by pipeline: started with torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from trainers.engine.checkpoint import checkpoint
from trainers.engine.megatron import parallel
from trainers.engine.weights import comparison
from trainers.parallel import Parallel


def main(root: str) -> None:
    """Write `<name>.<cut>.pt` beside every checkpoint `<name>/checkpoint` below `root`."""
    for cut in ("tensor", "pipeline"):
        layout = parallel.start(Parallel(**{cut: 2}))
        for folder in sorted(Path(root).glob("*/checkpoint")):
            model = checkpoint.open_checkpoint(str(folder), verify="off").model
            logits = comparison.ours(str(folder), model, comparison.sample_ids(model), layout)
            if layout.rank == 0:
                torch.save(logits, folder.parent / f"{cut}.pt")
        parallel.stop()


if __name__ == "__main__":
    main(sys.argv[1])
