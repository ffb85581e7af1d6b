"""The algorithms, one file each: this list is the registry.

A file here imports torch, schemas, `trainers.algorithm` and `trainers.arithmetic`, and nothing else of ours.
"""

from __future__ import annotations

from trainers.algorithms.rm import RM as RM
from trainers.algorithms.rm_regression import RM_REGRESSION as RM_REGRESSION
from trainers.algorithms.sft import SFT as SFT
