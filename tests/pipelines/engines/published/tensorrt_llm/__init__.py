"""Stands in for TensorRT-LLM 1.3 where it is not installed, by the names and types of its committed interface. What is
its own: stop texts are looked for among tokens, what ended an answer goes unless it is asked for, no log-probability is
given for a number that is 0, and a prompt's logits come as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.pipelines.engines.network import Network, pick, processed, seeded

FAULT = ""
ASKED: list[dict[str, Any]] = []

TORCH_LLM_ARGS = {"max_batch_size", "max_seq_len", "max_num_tokens", "kv_cache_config", "enable_chunked_prefill"}
DTYPES = ("auto", "float16", "bfloat16", "float32")


@dataclass(kw_only=True)
class SamplingParams:
    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    bad: list[str] | str | None = None
    stop: list[str] | str | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    return_context_logits: bool = False
    return_generation_logits: bool = False
    exclude_input_from_output: bool = True
    ignore_eos: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        assert type(self.max_tokens) is int and self.max_tokens >= 1 and self.n == 1, self
        assert self.top_k is None or type(self.top_k) is int, self.top_k
        assert self.top_p is None or type(self.top_p) is float, self.top_p
        assert self.temperature is None or type(self.temperature) is float, self.temperature
        assert self.seed is None or (type(self.seed) is int and 0 <= self.seed < 1 << 64), self.seed
        ASKED.append(vars(self))

    @property
    def greedy(self) -> bool:
        none = self.temperature is None and self.top_k is None and self.top_p is None
        return none or self.temperature == 0 or self.top_p == 0 or self.top_k == 1


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] | None = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = field(default_factory=list)
    prompt_logprobs: list[dict[int, Logprob]] | None = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    context_logits: Any = None
    finished: bool = True


class LLM:
    def __init__(
        self, model: str | Path, tokenizer: str | Path | None = None, tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False, trust_remote_code: bool = False, tensor_parallel_size: int = 1,
        dtype: str = "auto", revision: str | None = None, tokenizer_revision: str | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        if unknown := {*kwargs} - TORCH_LLM_ARGS:
            raise ValueError(f"TorchLlmArgs has no {unknown}")
        assert dtype in DTYPES and type(tensor_parallel_size) is int, dtype
        self.network, self.longest, self.ended = Network(str(model), FAULT), kwargs["max_seq_len"], False
        self.kept = kwargs["kv_cache_config"]
        ASKED.append({"dtype": dtype, "tensor": tensor_parallel_size, "trust_remote_code": trust_remote_code, **kwargs})

    def generate(
        self,
        inputs: Sequence[dict[str, Any]],
        sampling_params: SamplingParams | list[SamplingParams] | None = None,
        use_tqdm: bool = True,
        lora_request: object = None,
    ) -> list[RequestOutput]:
        assert not self.ended and isinstance(sampling_params, list) and len(sampling_params) == len(inputs)
        return [self._one(number, given["prompt_token_ids"], params)
                for number, (given, params) in enumerate(zip(inputs, sampling_params, strict=True))]  # fmt: skip

    def shutdown(self) -> None:
        self.ended = True

    def _one(self, number: int, ids: list[int], params: SamplingParams) -> RequestOutput:
        assert all(type(one) is int for one in ids) and 0 < len(ids) < self.longest, ids
        logits = self.network.logits(ids)[None] if params.return_context_logits else None
        return RequestOutput(number, None, ids, [self._drawn(ids, params)], logits)

    def _words(self, params: SamplingParams) -> list[list[int]]:
        texts = [params.stop] if isinstance(params.stop, str) else params.stop or []
        encoded = [self.network.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return [[one] for one in params.stop_token_ids or ()] + encoded

    def _drawn(self, prompt: list[int], params: SamplingParams) -> CompletionOutput:
        generator, drawn, logprobs, words = seeded(params.seed), list[int](), [], self._words(params)
        for _ in range(min(params.max_tokens, self.longest - len(prompt))):
            logits = self.network.logits([*prompt, *drawn])[-1]
            how = (params.temperature or 1.0, params.top_k or 0, 1.0 if params.top_p is None else params.top_p)
            cut = processed(logits, *how)
            drawn.append(int(logits.argmax()) if params.greedy else pick(cut, generator))
            shown = cut if FAULT == "processed" else logits.log_softmax(-1)
            if params.logprobs:
                best = [drawn[-1], *shown.topk(params.logprobs).indices.tolist()]
                logprobs.append({one: Logprob(float(shown[one])) for one in best})
            for word in words:
                if drawn[-len(word) :] == word:
                    shorter = drawn if params.include_stop_str_in_output else drawn[: -len(word)]
                    return CompletionOutput(0, "", shorter, None, logprobs, finish_reason="stop")
            if not params.ignore_eos and drawn[-1] == self.network.tokenizer.eos_token_id:
                return CompletionOutput(0, "", drawn[:-1], None, logprobs, finish_reason="stop")
        return CompletionOutput(0, "", drawn, None, logprobs, finish_reason="length")
