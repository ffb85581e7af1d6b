"""Trainers: tables in, a checkpoint out.

An algorithm (`algorithms/`) is one file of arithmetic; the engine (`engine/`) is the only code that knows
Megatron-Core. Trainers know `schemas` and nothing of datakit or pipelines. A run is `python -m trainers.run
CONFIG.json`. Where this process is a command of ours, `doors` closes the working folder to imports first.
"""

from trainers import doors as doors
