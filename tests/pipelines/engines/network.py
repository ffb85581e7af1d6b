"""A Hugging Face folder computed by transformers in fp32: what the stand-ins of engines draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Network:
    """`logits(ids)` [T, V] of a language model; `fault` spoils them: `head` is one of other weights."""

    def __init__(self, folder: str, fault: str = "") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        if fault == "head":
            with torch.no_grad():
                self.model.lm_head.weight[7] += 0.5

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        logits: Tensor = self.model(torch.tensor([list(ids)])).logits[0].float()
        return logits


def processed(logits_V: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """The log-probabilities that are drawn from."""
    scaled_V = logits_V / temperature
    if 0 < top_k < len(scaled_V):
        scaled_V = scaled_V.masked_fill(scaled_V < scaled_V.topk(top_k).values[-1], -torch.inf)
    if top_p < 1:
        values, order = scaled_V.softmax(-1).sort(descending=True)
        cut = order[(values.cumsum(-1) - values) >= top_p]
        scaled_V = scaled_V.index_fill(0, cut, -torch.inf)
    return scaled_V.log_softmax(-1)


def pick(logprobs_V: Tensor, generator: Any) -> int:
    return int(torch.multinomial(logprobs_V.exp(), 1, generator=generator))


def seeded(seed: int | None) -> torch.Generator:
    """A request's own randomness."""
    generator = torch.Generator()
    generator.manual_seed(0 if seed is None else seed)
    return generator
