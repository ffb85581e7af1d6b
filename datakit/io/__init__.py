"""Rows from outside: JSON Lines, separated values, Parquet, Arrow, packed sequences, and the digit-reversal task."""

from __future__ import annotations

from datakit.io.arrow import Arrow as Arrow
from datakit.io.csv import Csv as Csv
from datakit.io.jsonl import Jsonl as Jsonl
from datakit.io.npy import Npy as Npy
from datakit.io.parquet import Parquet as Parquet
from datakit.io.reversal import Reversal as Reversal
