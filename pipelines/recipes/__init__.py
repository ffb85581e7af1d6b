"""The recipes, one file each: this list is the registry."""

from __future__ import annotations

from pipelines.recipes.decision_transformer import DecisionTransformer as DecisionTransformer
from pipelines.recipes.distill import Distill as Distill
from pipelines.recipes.dpo import DpoIteration as DpoIteration
from pipelines.recipes.draft_plus import DraftPlus as DraftPlus
from pipelines.recipes.grpo import Grpo as Grpo
from pipelines.recipes.online_dpo import OnlineDpo as OnlineDpo
from pipelines.recipes.online_rejection_sampling import OnlineRejectionSampling as OnlineRejectionSampling
from pipelines.recipes.ppo import Ppo as Ppo
from pipelines.recipes.preference import Preference as Preference
from pipelines.recipes.preference_optimization import PreferenceOptimization as PreferenceOptimization
from pipelines.recipes.reinforce import Reinforce as Reinforce
from pipelines.recipes.reinforce_pp import ReinforcePp as ReinforcePp
from pipelines.recipes.rejection_sampling import RejectionSamplingIteration as RejectionSamplingIteration
from pipelines.recipes.rest import RestIteration as RestIteration
from pipelines.recipes.reward_model import RewardModel as RewardModel
from pipelines.recipes.rl_cai import RlCai as RlCai
from pipelines.recipes.sft import Sft as Sft
from pipelines.recipes.sl_cai import SlCai as SlCai
from pipelines.recipes.spin import SpinIteration as SpinIteration
from pipelines.recipes.steer_lm import SteerLm as SteerLm
from pipelines.recipes.steer_lm2 import SteerLm2Iteration as SteerLm2Iteration
