"""`python -m trainers.export CHECKPOINT OUT`: a checkpoint becomes a Hugging Face folder.

Exit codes: 0 the folder is there (also when it was there already); 2 no architecture computes what the checkpoint
does, 11 the checkpoint is damaged. Nothing is left behind by a failure.
"""

from __future__ import annotations

import argparse
import sys

from schemas.errors import QuiverError
from schemas.process import program
from schemas.process.terminal import error_text


def main(arguments: list[str] | None = None) -> int:
    """Export the checkpoint named on the command line; the process's exit code."""
    parser = argparse.ArgumentParser("python -m trainers.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("out", help="folder that transformers and vLLM load")
    parser.add_argument("--family", help="whose architecture (default: the one it was imported as, or that fits)")
    parser.add_argument("--dtype", choices=("keep", "fp32", "bf16", "fp16"), default="keep", help="type of the weights")
    parser.add_argument("--max-shard-bytes", type=int, default=5_000_000_000, help="greatest size of one file")
    parser.add_argument("--tokenizer", help="tokenizer dataset or folder, in place of the checkpoint's own")
    parser.add_argument("--key", default="", help="task key of the folder")
    parser.add_argument("--check", choices=("auto", "on", "off"), default="auto", help="compare with transformers")
    given = parser.parse_args(arguments)
    from trainers.engine.weights.export_hf import export

    try:
        export(
            given.checkpoint,
            given.out,
            family=given.family,
            dtype=given.dtype,
            max_shard_bytes=given.max_shard_bytes,
            tokenizer_from=given.tokenizer,
            task_key=given.key,
            check=given.check,
        )
    except QuiverError as error:
        print(error_text(error), file=sys.stderr, flush=True)
        return error.code
    return 0


if __name__ == "__main__":
    program.run(main)
