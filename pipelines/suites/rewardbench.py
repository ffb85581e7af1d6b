"""RewardBench: does a reward model prefer the better answer of each pair? `--reward-model` over pairs runs it, too."""

from __future__ import annotations

from pipelines.suites.rewarding import RewardSuite

REWARDBENCH = RewardSuite(
    name="rewardbench",
    about="pairs of chat, safety and reasoning (Lambert et al. 2024, arXiv:2403.13787)",
    formats=("preferences", "preference_messages", "preference_chats", "hh"),
    slices=("subset",),
)
