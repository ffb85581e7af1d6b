"""TensorRT-LLM in a worker: `trtllm:FOLDER`, a checkpoint or a Hugging Face folder (`pipelines.backends.engine`).

Written against the committed signatures of the LLM API of TensorRT-LLM 1.3: `LLM.generate` over token ids, one request
an answer. What an answer ends with is ours to say (`ignore_eos`), and stays among its tokens. Beginnings that prompts
share are kept (block reuse), except where given tokens are read: of kept blocks no log-probability is computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from datakit.clients import Sampling
from pipelines.backends.engine import Engine, Loading
from pipelines.engines.client import Draw, Drawn
from pipelines.graph.backend import register

_QUIET = {"TRTLLM_NO_USAGE_STATS": "1", "TELEMETRY_DISABLED": "1", "TLLM_LOG_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
"""Nothing is reported or fetched."""

_TOKENS = 2048
"""Tokens whose logits are held at a time: 1 GB where there are 128,000 ids."""


@register
class Trtllm(Engine):
    """A checkpoint, or a Hugging Face folder, that TensorRT-LLM answers for."""

    kind: ClassVar[str] = "trtllm"
    form: ClassVar[str] = "a model in TensorRT-LLM"
    example: ClassVar[str] = "trtllm:./llama-3.1-8b"
    schemes: ClassVar[tuple[str, ...]] = ("trtllm",)
    library: ClassVar[str] = "tensorrt_llm"
    distributions: ClassVar[tuple[str, ...]] = ("tensorrt-llm",)
    extra: ClassVar[str] = "trtllm"

    def load(self, asked: Loading) -> TrtllmEngine:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import tensorrt_llm
        from tensorrt_llm.llmapi import KvCacheConfig

        kept = KvCacheConfig(
            enable_block_reuse=asked.draws, enable_partial_reuse=False, free_gpu_memory_fraction=asked.memory
        )
        llm = tensorrt_llm.LLM(
            model=asked.folder,
            tokenizer=asked.folder,
            trust_remote_code=False,
            dtype=asked.dtype,
            tensor_parallel_size=asked.tensor,
            max_seq_len=asked.longest,
            kv_cache_config=kept,
        )
        return TrtllmEngine(llm, tensorrt_llm.SamplingParams)


class TrtllmEngine:
    """`llm` is a `tensorrt_llm.LLM`, `params` the class of its sampling parameters."""

    def __init__(self, llm: Any, params: Any) -> None:
        self._llm, self._params = llm, params

    def draw(
        self, asked: Sequence[Draw], sampling: Sampling, texts: Sequence[str], ids: Sequence[int]
    ) -> Sequence[Drawn]:
        """One call over all: the engine has as many of them under way as its memory holds."""
        how: dict[str, Any] = {"top_k": 1} if sampling.greedy else {"top_k": sampling.top_k}
        if not sampling.greedy:
            how |= {"temperature": float(sampling.temperature), "top_p": float(sampling.top_p)}
        common = {
            **how,
            "stop": list(texts) or None,
            "stop_token_ids": list(ids) or None,
            "ignore_eos": True,
            "detokenize": bool(texts),
            "add_special_tokens": False,
            "include_stop_str_in_output": True,
            "logprobs": 1,
        }
        params = [self._params(n=1, seed=one.seed, max_tokens=one.room, **common) for one in asked]
        return [_drawn(one) for one in self._generate([one.ids for one in asked], params)]

    def read(self, rows: Sequence[list[int]], top: int) -> Sequence[Sequence[Mapping[int, float]]]:
        """Of the logits over each row, behind which one token is drawn and left; a few rows at a time, because they are
        as wide as the vocabulary. Its `prompt_logprobs` leave out a given token that is none of the likeliest.
        """
        how = {"ignore_eos": True, "detokenize": False, "add_special_tokens": False, "return_context_logits": True}
        made: list[Sequence[Mapping[int, float]]] = []
        for part in _parts(rows):
            params = [self._params(n=1, top_k=1, max_tokens=1, **how) for _ in part]
            read = self._generate(part, params)
            made += [_thought(one.context_logits, ids, top) for one, ids in zip(read, part, strict=True)]
        return made

    def close(self) -> None:
        """End the processes that it started, one a GPU."""
        self._llm.shutdown()

    def _generate(self, rows: Sequence[list[int]], params: Sequence[Any]) -> Sequence[Any]:
        return self._llm.generate([{"prompt_token_ids": ids} for ids in rows], list(params), use_tqdm=False)


def _drawn(output: Any) -> Drawn:
    [answer] = output.outputs
    ids = [int(number) for number in answer.token_ids]
    given = zip(answer.logprobs, ids, strict=True)
    logprobs = [float(at[number].logprob if isinstance(at, Mapping) else at) for at, number in given]
    return Drawn(ids, logprobs, str(answer.finish_reason))


def _parts(rows: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """`rows` in their order, about `_TOKENS` tokens at a time."""
    part: list[list[int]] = []
    for ids in rows:
        if part and sum(map(len, part)) + len(ids) > _TOKENS:
            yield part
            part = []
        part.append(ids)
    if part:
        yield part


def _thought(logits: Any, ids: Sequence[int], top: int) -> list[dict[int, float]]:
    """Log-probabilities of the tokens of `ids` behind the first, and of the `top` likeliest there, of the `logits` at
    every token, a tensor [T, V] or [1, T, V].
    """
    logprobs = logits.reshape(-1, logits.shape[-1]).float().log_softmax(-1)[: len(ids) - 1]
    listed = [{number: float(logprobs[at, number])} for at, number in enumerate(ids[1 : len(logprobs) + 1])]
    if top:
        values, likeliest = logprobs.topk(top, dim=-1)
        for at, numbers, given in zip(listed, likeliest.tolist(), values.tolist(), strict=True):
            at.update(zip(numbers, given, strict=True))
    return listed
