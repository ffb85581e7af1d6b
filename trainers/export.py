"""`python -m trainers.export CHECKPOINT OUT`: a checkpoint becomes a Hugging Face folder.

Exit codes: 0 the folder is there (also when it was there already); 2 no architecture computes what the checkpoint
does, 11 the checkpoint is damaged. Nothing is left behind by a failure.
"""

from __future__ import annotations

import argparse

from schemas.process import program
from trainers.conversion_flags import add_conversion_flags, conversion_settings


def main(arguments: list[str] | None = None) -> int:
    """Export the checkpoint named on the command line; its exit code; `QuiverError` for what fails."""
    parser = argparse.ArgumentParser("python -m trainers.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("out", help="folder that transformers and vLLM load")
    parser.add_argument("--family", help="whose architecture (default: the one it was imported as, or that fits)")
    parser.add_argument("--dtype", choices=("keep", "fp32", "bf16", "fp16"), default="keep", help="type of the weights")
    parser.add_argument("--max-shard-bytes", type=int, default=5_000_000_000, help="greatest size of one file")
    add_conversion_flags(parser, "folder", "checkpoint")
    given = parser.parse_args(arguments)
    from trainers.engine.weights.export_hf import export

    export(
        given.checkpoint,
        given.out,
        family=given.family,
        dtype=given.dtype,
        max_shard_bytes=given.max_shard_bytes,
        **conversion_settings(given),
    )
    return 0


if __name__ == "__main__":
    program.run(main)
