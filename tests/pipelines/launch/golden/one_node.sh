#!/bin/bash
#SBATCH --job-name=rest/policy
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --output="/data/my runs/it's $(touch pwned) `id`; 100%% \"x\"/logs/slurm.log"
#SBATCH --open-mode=append
#SBATCH --export=HOME,PATH
#SBATCH --no-requeue

set -euo pipefail
trap : TERM  # the ranks get the signal themselves, and this shell waits for them
export OMP_NUM_THREADS=1
export OMP_WAIT_POLICY=PASSIVE
export PYTHONPATH=/opt/quiver
export PYTHONSAFEPATH=1
export PYTHONUNBUFFERED=1
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR="${hosts[0]}"
export MASTER_PORT="$((20000 + SLURM_JOB_ID % 10000))"

code=0
'/opt/quiver env/bin/python' -P -m trainers.launch '/data/my runs/it'"'"'s $(touch pwned) `id`; 100% "x"/config.json' --ranks 4 --name rest/policy --settings '/data/my runs/it'"'"'s $(touch pwned) `id`; 100% "x"/launch.json' \
  -- srun --kill-on-bad-exit=1 --export=ALL --input=none --open-mode=append '--output=/data/my runs/it'"'"'s $(touch pwned) `id`; 100%% "x"/logs/rank-%5t.log' \
  '/opt/quiver env/bin/python' -P -m trainers.run '/data/my runs/it'"'"'s $(touch pwned) `id`; 100% "x"/config.json' || code=$?
exit "$code"
