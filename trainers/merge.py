"""`python -m trainers.merge ADAPTERS OUT`: adapters and their base as one ordinary checkpoint.

`python -m trainers.merge ADAPTERS OUT --peft BASE` writes the adapters alone instead, as a folder that PEFT loads over
the Hugging Face model BASE (a name or a folder). Exit codes: 0 done (also when it was done already), 2 no adapters
there or a wrong command line, 11 the base is gone or changed.
"""

from __future__ import annotations

import argparse

from schemas.errors import counted
from schemas.process import program


def main(arguments: list[str] | None = None) -> int:
    """Merge, or write for PEFT, as the command line says; its exit code; `QuiverError` for what fails."""
    parser = argparse.ArgumentParser(prog="python -m trainers.merge", description="Adapters (LoRA) on their way out.")
    parser.add_argument("adapters", help="checkpoint of a run with lora")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--peft", metavar="BASE", help="write the adapters alone, for PEFT over this model")
    parser.add_argument("--family", help="with --peft: family of the model's names (default: found from its shape)")
    given = parser.parse_args(arguments)
    if given.family is not None and given.peft is None:
        parser.error("--family has no effect without --peft")
    from trainers.engine.megatron import parallel
    from trainers.engine.weights import lora_export

    try:
        if given.peft is not None:
            names = lora_export.to_peft(given.adapters, given.out, given.peft, family=given.family)
            print(f"{given.out}: {counted(len(names), 'tensor')}")
        else:
            manifest = lora_export.merge(given.adapters, given.out)
            print(f"{given.out}: weights {manifest.facts['weights_digest'][:12]}")
    finally:
        parallel.stop()
    return 0


if __name__ == "__main__":
    program.run(main)
