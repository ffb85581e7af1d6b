"""Flags that every program has which converts weights: what the result is called, written with and compared with."""

from __future__ import annotations

import argparse
from typing import Any


def add_conversion_flags(parser: argparse.ArgumentParser, made: str, source: str) -> None:
    """Add `--tokenizer`, `--key` and `--check` of a program that makes a `made` (a checkpoint, a folder) of a
    `source`.
    """
    parser.add_argument("--tokenizer", help=f"tokenizer dataset or folder, in place of the {source}'s own")
    parser.add_argument("--key", default="", help=f"task key of the {made}")
    parser.add_argument("--check", choices=("auto", "on", "off"), default="auto", help="compare with transformers")


def conversion_settings(given: argparse.Namespace) -> dict[str, Any]:
    """What the conversions of `trainers.engine.weights` take of these flags."""
    return {"tokenizer_from": given.tokenizer, "task_key": given.key, "check": given.check}
