"""RewardBench: does a reward model prefer the better answer of each pair? `--reward-model` over pairs runs it, too.

Its score is the mean of four sections; in a section subsets count by their published rows, but for `math-prm`, which
counts as much as all code together (Lambert et al. 2024, section 4.2).
"""

from __future__ import annotations

from pipelines.suites.rewarding import RewardSuite

REWARDBENCH = RewardSuite(
    name="rewardbench",
    about="pairs of chat, safety and reasoning (Lambert et al. 2024, arXiv:2403.13787)",
    formats=("preferences", "preference_messages", "preference_chats", "hh"),
    slices=("subset",),
    sections={
        "Chat": {
            "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28,
            "mt-bench-med": 40,
        },
        "Chat Hard": {
            "mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
            "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
        },
        "Safety": {
            "refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154,
            "xstest-should-respond": 250, "donotanswer": 136,
        },
        "Reasoning": {
            "math-prm": 984,
            **dict.fromkeys(("hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"), 164),
        },
    },
)  # fmt: skip
