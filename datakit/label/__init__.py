"""Operations that put a number or a finding on every row. Re-exports are the registry."""

from __future__ import annotations

from datakit.label.across import Across as Across
from datakit.label.attribute_logprob import AttributeLogprob as AttributeLogprob
from datakit.label.attribute_text import AttributeText as AttributeText
from datakit.label.attribute_values import AttributeValues as AttributeValues
from datakit.label.attributes import Attributes as Attributes
from datakit.label.choices import Choices as Choices
from datakit.label.distinct_n import DistinctN as DistinctN
from datakit.label.divergence import Divergence as Divergence
from datakit.label.gae import Gae as Gae
from datakit.label.group_advantage import GroupAdvantage as GroupAdvantage
from datakit.label.human import Human as Human
from datakit.label.image_reward import ImageReward as ImageReward
from datakit.label.importance_weights import ImportanceWeights as ImportanceWeights
from datakit.label.judge import Judge as Judge
from datakit.label.kl import Kl as Kl
from datakit.label.language import Language as Language
from datakit.label.length import Length as Length
from datakit.label.logprobs import Logprobs as Logprobs
from datakit.label.longer import Longer as Longer
from datakit.label.pass_at import PassAt as PassAt
from datakit.label.pii import Pii as Pii
from datakit.label.principle import DrawPrinciple as DrawPrinciple
from datakit.label.refusal import Refusal as Refusal
from datakit.label.repetition import Repetition as Repetition
from datakit.label.returns import Returns as Returns
from datakit.label.reward import Reward as Reward
from datakit.label.rloo import Rloo as Rloo
from datakit.label.standardize import Standardize as Standardize
from datakit.label.steerlm2_weights import Steerlm2Weights as Steerlm2Weights
from datakit.label.token_rewards import TokenRewards as TokenRewards
from datakit.label.topk import TopK as TopK
from datakit.label.values import Values as Values
from datakit.label.verify import Verify as Verify
from datakit.label.weighted import Weighted as Weighted
from datakit.label.whiten import Whiten as Whiten
from datakit.label.words import Words as Words
