"""Starting a training run on one machine or on a cluster, watching it, and telling what went wrong.

    python -m trainers.launch CONFIG.json --ranks 8                              on this machine
    python -m trainers.launch CONFIG.json --ranks 16 --settings LAUNCH.json      e.g. {"launcher": "slurm", ...}

    settings.py     how a run is launched: one frozen `Launch`
    rank.py         what a process of a run does before it trains      rank_status.py  the file in which it says so
    local.py        one process, or several                            slurm.py        the sbatch script
    spawn.py        starts the ranks of one machine                run_lock.py     one start of a run at a time
    watch.py        waits, sees who is dead or stuck, ends all         jobs.py         sbatch, squeue, scancel
    launch_result.py  which of the ranks' errors is the run's error    child.py        children that leave no orphans
    start.py        a start as a whole: prepared, run, explained       stop_signals.py  SIGTERM and SIGINT as a question

Nothing here imports torch: what launches a run stays small and answers at once.
"""

from __future__ import annotations
