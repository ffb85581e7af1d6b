#!/bin/bash
#SBATCH --job-name=quiver-label.reward
#SBATCH --array=0-11
#SBATCH --gpus=2
#SBATCH --output="/data/my runs/it's $(touch pwned) `id`; 100%% \"x\"/logs/%A_%a.log"
#SBATCH --open-mode=append
#SBATCH --export=HOME,PATH
#SBATCH --no-requeue
#SBATCH --partition=cpu
#SBATCH --mem=8G

set -euo pipefail
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} POLARS_MAX_THREADS=${SLURM_CPUS_PER_TASK:-1}
export OMP_WAIT_POLICY=PASSIVE
export PYTHONPATH=/opt/quiver
export PYTHONSAFEPATH=1
export PYTHONUNBUFFERED=1
exec '/opt/quiver env/bin/python' -P -m datakit.run.array_task '/data/my runs/it'"'"'s $(touch pwned) `id`; 100% "x"'
