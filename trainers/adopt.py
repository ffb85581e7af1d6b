"""`python -m trainers.adopt SOURCE OUT`: `trainers.import_hf` under its older name."""

from __future__ import annotations

from schemas.process import program
from trainers.import_hf import main

if __name__ == "__main__":
    program.run(main)
