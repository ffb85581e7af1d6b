"""`python -m trainers.import_hf SOURCE OUT`: a Hugging Face folder, or a model of NeMo, becomes a checkpoint.

Exit codes: 0 the checkpoint is there (also when it was there already); 2 the folder asks for what is not supported, 10
its files are not what they say, or compute something else. Nothing is left behind by a failure.
"""

from __future__ import annotations

import argparse

from schemas.process import program
from trainers.conversion_flags import add_conversion_flags, conversion_settings


def main(arguments: list[str] | None = None) -> int:
    """Import the folder named on the command line; its exit code; `QuiverError` for what fails."""
    parser = argparse.ArgumentParser("python -m trainers.import_hf", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", help="folder with config.json and *.safetensors, PEFT's adapters, or a .nemo")
    parser.add_argument("out", help="folder of the checkpoint")
    parser.add_argument("--base", default="", help="folder of the model that adapters belong to, where not as they say")
    add_conversion_flags(parser, "checkpoint", "folder")
    given = parser.parse_args(arguments)
    from trainers.engine.weights.import_hf import import_hf

    import_hf(given.source, given.out, base=given.base, **conversion_settings(given))
    return 0


if __name__ == "__main__":
    program.run(main)
