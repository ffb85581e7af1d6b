"""How answers are drawn from a policy."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import ConfigError

COLDEST = 1e-6
"""The least temperature: logits divided by less overflow, and what is drawn is no longer the likeliest."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of one draw.

    `top_k` 0 and `top_p` 1 leave the distribution whole; `greedy` takes the likeliest token and
    ignores both and the temperature; `stop` are texts that end an answer and are cut off it.
    """

    samples_per_prompt: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    greedy: bool = False

    def __post_init__(self) -> None:
        faults = [
            text
            for wrong, text in (
                (self.samples_per_prompt < 1, f"samples_per_prompt is {self.samples_per_prompt}, at least 1"),
                (
                    not COLDEST <= self.temperature < float("inf"),
                    f"temperature is {self.temperature}, at least {COLDEST} (greedy draws the likeliest)",
                ),
                (self.top_k < 0, f"top_k is {self.top_k}, at least 0"),
                (not 0 < self.top_p <= 1, f"top_p is {self.top_p}, above 0 and at most 1"),
                (self.max_new_tokens < 1, f"max_new_tokens is {self.max_new_tokens}, at least 1"),
                (
                    self.greedy and self.samples_per_prompt > 1,
                    "greedy draws the same answer again: samples_per_prompt 1",
                ),
                (any(not text for text in self.stop), "stop holds an empty text"),
            )
            if wrong
        ]
        if faults:
            raise ConfigError("bad-setting", "; ".join(faults), where="sampling", kept="nothing was started")
