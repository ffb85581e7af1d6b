"""`python -m trainers.import_hf SOURCE OUT`: a Hugging Face folder becomes a checkpoint.

Exit codes: 0 the checkpoint is there (also when it was there already); 2 the folder asks for what is not supported, 10
its files are not what they say, or compute something else. Nothing is left behind by a failure.
"""

from __future__ import annotations

import argparse
import sys

from schemas.errors import QuiverError
from schemas.process import program
from schemas.process.terminal import error_text


def main(arguments: list[str] | None = None) -> int:
    """Import the folder named on the command line; the process's exit code."""
    parser = argparse.ArgumentParser("python -m trainers.import_hf", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", help="folder with config.json, *.safetensors and tokenizer.json, or PEFT's adapters")
    parser.add_argument("out", help="folder of the checkpoint")
    parser.add_argument("--base", default="", help="folder of the model that adapters belong to, where not as they say")
    parser.add_argument("--tokenizer", help="tokenizer dataset or folder, in place of the folder's own")
    parser.add_argument("--key", default="", help="task key of the checkpoint")
    parser.add_argument("--check", choices=("auto", "on", "off"), default="auto", help="compare with transformers")
    given = parser.parse_args(arguments)
    from trainers.engine.weights.import_hf import import_hf

    try:
        import_hf(
            given.source,
            given.out,
            base=given.base,
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
