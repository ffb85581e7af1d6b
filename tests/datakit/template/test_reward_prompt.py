"""template.reward_prompt on the conformance suite; what it renders stands in test_chat.py."""

from __future__ import annotations

from datakit.template import RewardPrompt
from schemas import PREFERENCES, SAMPLES
from tests.datakit.fakes import Example, tokenizer

EXAMPLES = [
    Example(RewardPrompt(), (SAMPLES.example(12),), tokenizer()),
    Example(RewardPrompt(rows="preferences"), (PREFERENCES.example(12),), tokenizer()),
]


def test_what_it_adds_follows_the_rows():
    added = [[column.name for column in example.op.adds] for example in EXAMPLES]
    assert added[0] == ["reward_pieces", "reward_text"]
    assert {"chosen_pieces", "rejected_pieces"} <= set(added[1])
