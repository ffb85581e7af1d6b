"""Where figures go besides `metrics.jsonl`, one file per tracker: this list is the registry.

A file here imports its tracker's package inside `start` only, so that the engine needs none of them.
"""

from __future__ import annotations

from trainers.engine.reporting.trackers.mlflow import Mlflow as Mlflow
from trainers.engine.reporting.trackers.tensorboard import TensorBoard as TensorBoard
from trainers.engine.reporting.trackers.wandb import Wandb as Wandb
