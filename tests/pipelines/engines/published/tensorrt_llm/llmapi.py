"""The part of `tensorrt_llm.llmapi` that is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class KvCacheConfig:
    enable_block_reuse: bool = True
    enable_partial_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = 0.9

    def __post_init__(self) -> None:
        assert self.free_gpu_memory_fraction is None or type(self.free_gpu_memory_fraction) is float
