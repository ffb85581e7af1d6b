#!/bin/bash
#SBATCH --job-name=rest/policy
#SBATCH --partition=gpu
#SBATCH --account="o\"hara & co"
#SBATCH --qos=high
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=1-04:00:00
#SBATCH --signal=TERM@120
#SBATCH --output="/data/my runs/it's $(touch pwned) `id`; 100%% \"x\"/logs/slurm.log"
#SBATCH --open-mode=append
#SBATCH --export=HOME,MY_TOKEN,PATH
#SBATCH --requeue
#SBATCH --constraint=a100|h100
#SBATCH --exclusive

set -euo pipefail
trap : TERM  # the ranks get the signal themselves, and this shell waits for them
export OMP_NUM_THREADS=12
export OMP_WAIT_POLICY=PASSIVE
export PYTHONPATH=/opt/quiver
export PYTHONSAFEPATH=1
export PYTHONUNBUFFERED=1
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR="${hosts[0]}"
export MASTER_PORT="$((20000 + SLURM_JOB_ID % 10000))"

code=0
'/opt/quiver env/bin/python' -P -m trainers.launch '/data/my runs/it'"'"'s $(touch pwned) `id`; 100% "x"/config.json' --ranks 16 --name rest/policy --settings '/data/my runs/it'"'"'s $(touch pwned) `id`; 100% "x"/launch.json' \
  -- srun --kill-on-bad-exit=1 --export=ALL --input=none --open-mode=append --cpus-per-task=12 '--container-image=/images/quiver v1.sqsh' '--container-mounts=/data:/data,/my runs:/runs' '--output=/data/my runs/it'"'"'s $(touch pwned) `id`; 100%% "x"/logs/rank-%5t.log' \
  '/opt/quiver env/bin/python' -P -m trainers.run '/data/my runs/it'"'"'s $(touch pwned) `id`; 100% "x"/config.json' || code=$?
if [ "$code" -eq 75 ] && [ ! -e '/data/my runs/it'"'"'s $(touch pwned) `id`; 100% "x"/stop' ]; then scontrol requeue "$SLURM_JOB_ID" || true; fi
exit "$code"
