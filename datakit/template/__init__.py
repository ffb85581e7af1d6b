"""Conversations become text: for a policy to answer or to learn, and for a reward model to read."""

from __future__ import annotations

from datakit.template.chat import Chat as Chat
from datakit.template.chat import turn_end_of as turn_end_of
from datakit.template.condition import Condition as Condition
from datakit.template.few_shot import FewShot as FewShot
from datakit.template.fit import Fit as Fit
from datakit.template.image_prompt import ImagePrompt as ImagePrompt
from datakit.template.labelled import LabelledChat as LabelledChat
from datakit.template.question import Question as Question
from datakit.template.reward_prompt import RewardPrompt as RewardPrompt
from datakit.template.reward_template import RewardTemplate as RewardTemplate
from datakit.template.turns import Line as Line
from datakit.template.turns import Turns as Turns
from datakit.template.wording import Wording as Wording
from datakit.templating.rendering import Rendering as Rendering
