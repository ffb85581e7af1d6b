"""Stands in for vLLM 0.32 where it is not installed: `LLM`, `SamplingParams` and what `generate` returns, by the names
and types that it publishes. It takes nothing that vLLM would not take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.pipelines.engines.network import Network, pick, processed, seeded

FAULT = ""
"""What this engine does wrong: `head` (other weights), `processed` (log-probabilities of what it drew from)."""
ASKED: list[dict[str, Any]] = []
"""What `LLM` was made with, and every `SamplingParams`, in their order."""

ENGINE_ARGS = {
    "max_model_len": int, "gpu_memory_utilization": float, "enable_prefix_caching": bool, "generation_config": str,
    "logprobs_mode": str, "max_logprobs": int, "load_format": str, "enforce_eager": bool, "max_num_seqs": int,
}  # fmt: skip
MODES = ("raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits")
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        assert type(self.n) is int and self.n >= 1 and type(self.top_k) is int and self.top_k >= -1, self
        assert type(self.temperature) is float and 0 <= self.temperature <= 2, "temperature must be in [0, 2]"
        assert type(self.top_p) is float and 0 < self.top_p <= 1, "top_p must be in (0, 1]"
        assert self.max_tokens is None or (type(self.max_tokens) is int and self.max_tokens >= 1), self
        assert self.seed is None or (type(self.seed) is int and 0 <= self.seed < 1 << 63), "a seed of 64 bits"
        for given in (self.logprobs, self.prompt_logprobs):
            assert given is None or (type(given) is int and given >= -1), "logprobs must be non-negative or -1"
        self.stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        self.stop_token_ids = self.stop_token_ids or []
        assert all(type(one) is int for one in self.stop_token_ids), "stop_token_ids must contain only integers"
        assert all(self.stop), "stop cannot contain an empty string"
        assert self.detokenize or not self.stop, "stop strings are only supported when detokenize is True"
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        ASKED.append(vars(self))


@dataclass(frozen=True)
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool


class LLM:
    def __init__(
        self, model: str, *, tokenizer: str | None = None, tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False, trust_remote_code: bool = False, tensor_parallel_size: int = 1,
        dtype: str = "auto", quantization: str | None = None, revision: str | None = None, seed: int = 0, **args: Any,
    ) -> None:  # fmt: skip
        assert type(model) is str and (tokenizer is None or type(tokenizer) is str), (model, tokenizer)
        assert dtype in DTYPES and type(tensor_parallel_size) is int and tensor_parallel_size >= 1, dtype
        for name, value in args.items():
            assert name in ENGINE_ARGS and type(value) is ENGINE_ARGS[name], f"EngineArgs has no {name}={value!r}"
        assert args.get("logprobs_mode", "raw_logprobs") in MODES, args
        self.network, self.args = Network(model, FAULT), args
        self.longest = args.get("max_model_len") or self.network.model.config.max_position_embeddings
        assert self.longest <= self.network.model.config.max_position_embeddings, "longer than the model reads"
        ASKED.append({"dtype": dtype, "tensor": tensor_parallel_size, "trust_remote_code": trust_remote_code, **args})

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: object = None,
        priority: list[int] | None = None,
    ) -> list[RequestOutput]:
        assert isinstance(sampling_params, list) and len(sampling_params) == len(prompts)
        return [self._one(str(number), prompt, params)
                for number, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True))]  # fmt: skip

    def _one(self, name: str, prompt: dict[str, Any], params: SamplingParams) -> RequestOutput:
        assert {*prompt} == {"prompt_token_ids"}, prompt
        ids = prompt["prompt_token_ids"]
        assert type(ids) is list and all(type(one) is int for one in ids), "token ids are a list of int"
        assert 0 < len(ids) < self.longest, f"a prompt of {len(ids)} tokens, the model reads {self.longest}"
        given = None if params.prompt_logprobs is None else self._of_prompt(ids, params.prompt_logprobs)
        return RequestOutput(name, None, ids, given, [self._drawn(ids, params)], True)

    def _of_prompt(self, ids: list[int], top: int) -> list[dict[int, Logprob] | None]:
        logprobs = self.network.logits(ids).log_softmax(-1)
        return [None, *(_named(logprobs[at], ids[at + 1], top) for at in range(len(ids) - 1))]

    def _drawn(self, prompt: list[int], params: SamplingParams) -> CompletionOutput:
        generator, drawn, logprobs = seeded(params.seed), list[int](), list[dict[int, Logprob]]()
        eos = None if params.ignore_eos else self.network.tokenizer.eos_token_id
        for _ in range(min(params.max_tokens or self.longest, self.longest - len(prompt))):
            logits = self.network.logits([*prompt, *drawn])[-1]
            cut = processed(logits, params.temperature or 1.0, params.top_k, params.top_p)
            drawn.append(int(logits.argmax()) if params.temperature == 0 else pick(cut, generator))
            if params.logprobs is not None:
                shown = cut if FAULT == "processed" else logits.log_softmax(-1)
                logprobs.append(_named(shown, drawn[-1], params.logprobs))
            text = self.network.tokenizer.decode(drawn, skip_special_tokens=True) if params.detokenize else ""
            if (
                drawn[-1] in (params.stop_token_ids or ())
                or drawn[-1] == eos
                or any(s in text for s in params.stop or ())
            ):
                return CompletionOutput(0, text, drawn, None, logprobs or None, "stop")
        return CompletionOutput(0, "", drawn, None, logprobs or None, "length")


def _named(logprobs: Any, number: int, top: int) -> dict[int, Logprob]:
    best = logprobs.topk(top).indices.tolist() if top else []
    return {int(one): Logprob(float(logprobs[one])) for one in (number, *best)}
