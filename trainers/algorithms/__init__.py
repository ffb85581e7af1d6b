"""The algorithms, one file each: this list is the registry.

A file here imports schemas, `trainers.algorithm`, `trainers.arithmetic`, and what losses share (`trainers.preference`,
`trainers.distillation`, `trainers.policy`), nothing else of ours, no file beside it, and torch only inside a loss: what
an algorithm eats and reports is known without it.
"""

from __future__ import annotations

from trainers.algorithms.apo import APO as APO
from trainers.algorithms.cispo import CISPO as CISPO
from trainers.algorithms.dpo import DPO as DPO
from trainers.algorithms.gspo import GSPO as GSPO
from trainers.algorithms.ipo import IPO as IPO
from trainers.algorithms.kd import KD as KD
from trainers.algorithms.kd_ranked import KD_RANKED as KD_RANKED
from trainers.algorithms.kto import KTO as KTO
from trainers.algorithms.orpo import ORPO as ORPO
from trainers.algorithms.policy_gradient import POLICY_GRADIENT as POLICY_GRADIENT
from trainers.algorithms.ppo import PPO as PPO
from trainers.algorithms.rm import RM as RM
from trainers.algorithms.rm_margin import RM_MARGIN as RM_MARGIN
from trainers.algorithms.rm_regression import RM_REGRESSION as RM_REGRESSION
from trainers.algorithms.rpo import RPO as RPO
from trainers.algorithms.sft import SFT as SFT
from trainers.algorithms.simpo import SIMPO as SIMPO
from trainers.algorithms.steerlm2 import STEERLM2 as STEERLM2
from trainers.algorithms.value import VALUE as VALUE
