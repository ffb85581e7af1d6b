"""The folder of a training run, beside its checkpoint: what lies there, by name.

policy-12345678.run/
config.json            the run, as its program reads it
metrics.jsonl          figures of every step; rows.jsonl: the keys of its rows, where they are asked for
saves/step-00000020/   what it goes on from
logs/                  one file for each rank, and what started them said
tensorboard/           curves
records/               what training saw, until it is published beside the checkpoint
rollouts/              of an online run: what its steps asked, drew and learnt, as far as it is to stay
critic/, critic.run/   of an online run: the checkpoint and the run of what learns beside the policy
"""

from __future__ import annotations

RUN_END = ".run"
"""What stands behind the name of a checkpoint: the folder of the training that makes it."""
RECORDS_END = ".records"
"""The same of what training saw."""

CONFIG = "config.json"
METRICS = "metrics.jsonl"
ROWS = "rows.jsonl"
SAVES = "saves"
LOGS = "logs"
LAUNCHER_LOG = "launcher.log"
SLURM_LOG = "slurm.log"
TENSORBOARD = "tensorboard"
RECORDS = "records"
ROLLOUTS = "rollouts"
DROPPED = "_dropped.json"
"""What stays of a dataset of rollouts that was dropped (`keep_rollouts`): its manifest, under another name."""


def run_folder_of(checkpoint: str) -> str:
    """The folder of the training that makes the checkpoint at this place."""
    return f"{checkpoint.rstrip('/')}{RUN_END}"
