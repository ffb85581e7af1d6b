"""What a request asks for, checked: prompts, how answers are drawn, and what is wanted besides their texts.

Fields that would change answers and that nobody heeds are refused, unless they have the value that changes nothing; so
is a field that there is not. `response_format` is the exception: clients send it to servers that cannot follow it. It
is not followed here, and every reply says so (`ignored`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from datakit.clients.sampling import COLDEST
from pipelines.serve.fields import Fields, RequestError, are_ids, is_text, turns

Prompt: TypeAlias = "str | Sequence[int]"

_MOST_STOPS, _MOST_TOP, _DEFAULT_TOKENS = 16, 20, 16
_SEED_BITS = 64


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How answers are drawn. `most` is None where the rest of the model's positions is room; `top` None where no
    log-probabilities are asked for; answer i of a prompt has the seed `seed` + i.
    """

    n: int
    most: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: tuple[str, ...]
    stop_ids: tuple[int, ...]
    top: int | None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A request to continue `prompts`, or (`messages`) to answer a conversation, or about given tokens alone
    (`draw.most` 0, `echo`). `prompt_top`: how many of the likeliest ids are wanted at each token of the prompt.
    """

    model: str | None
    draw: Draw
    prompts: Sequence[Prompt] = ()
    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Any] | None = None
    echo: bool = False
    prompt_top: int | None = None
    stream: bool = False
    usage: bool = False
    token_ids: bool = False
    as_ids: bool = False
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A request for a reward model's numbers: whole conversations, or rows of token ids."""

    model: str | None
    conversations: Sequence[Sequence[Mapping[str, Any]]] = ()
    rows: Sequence[Sequence[int]] = ()


def completion(body: Any, size: int, most_answers: int) -> Completion:
    """A request to `/v1/completions`; `size` of the vocabulary."""
    fields = Fields.of(body)
    prompts = _prompts(fields, size, most_answers)
    top = fields.integer("logprobs", None, 0, _MOST_TOP)
    echo, prompt_top = fields.flag("echo"), fields.integer("prompt_logprobs", None, 0, _MOST_TOP)
    draw = _draw(fields, size, top, most_answers // len(prompts), _DEFAULT_TOKENS, 0 if echo else 1)
    fields.neutral(suffix=("",), best_of=(1, draw.n))
    extras = _extras(fields)
    if extras["stream"] and (echo or prompt_top is not None):
        raise fields.wrong("stream", "is for answers alone, without echo and prompt_logprobs")
    made = Completion(
        model=fields.text("model"), draw=draw, prompts=prompts, echo=echo, prompt_top=prompt_top, **extras
    )
    fields.end()
    return made


def chat(body: Any, size: int, most_answers: int) -> Completion:
    """A request to `/v1/chat/completions`; `size` of the vocabulary."""
    fields = Fields.of(body)
    top = fields.integer("top_logprobs", 0, 0, _MOST_TOP) if fields.flag("logprobs") else None
    if top is None:
        fields.neutral(top_logprobs=(0,))
    limit = "max_completion_tokens" if fields.any("max_tokens") is None else "max_tokens"
    draw = _draw(fields, size, top, most_answers, None, 1, limit)
    tools = fields.any("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(one, dict) for one in tools)):
        raise fields.wrong("tools", "is no list of tools")
    fields.neutral(
        tool_choice=("auto", "none"), add_generation_prompt=(True,), continue_final_message=(False,),
        modalities=(["text"],), parallel_tool_calls=(True, False),
    )  # fmt: skip
    made = Completion(
        model=fields.text("model"), draw=draw, messages=turns(fields), tools=tools or None, **_extras(fields)
    )
    fields.end()
    return made


def generate(body: Any, size: int, most_answers: int) -> Completion:
    """A request to `/inference/v1/generate`, as vLLM has it: token ids in, token ids out."""
    fields = Fields.of(body)
    ids = fields.ids("token_ids", size)
    if not ids:
        raise fields.wrong("token_ids", "is missing")
    params = Fields.of(fields.any("sampling_params") or {}, "sampling_params")
    draw = _draw(params, size, params.integer("logprobs", None, 0, _MOST_TOP), most_answers, _DEFAULT_TOKENS, 1)
    params.end()
    made = Completion(model=fields.text("model"), draw=draw, prompts=[ids], token_ids=True)
    fields.neutral(stream=(False,))
    fields.ignored("request_id", "priority", "cache_salt")
    fields.end()
    return made


def scoring(body: Any, size: int, most_rows: int) -> Scoring:
    """A request to `/score`, `/classify` or `/pooling`: `messages`, `conversations`, or `input_ids`."""
    fields = Fields.of(body)
    given = [name for name in ("messages", "conversations", "input_ids") if fields.any(name) is not None]
    if len(given) != 1:
        raise RequestError(
            "one of messages, conversations and input_ids is what is scored", param=given[0] if given else None
        )
    conversations: list[Sequence[Mapping[str, Any]]] = []
    rows: list[Sequence[int]] = []
    listed = fields.any(given[0])
    if given[0] == "messages":
        conversations = [turns(fields)]
    elif not isinstance(listed, list) or not 0 < len(listed) <= most_rows:
        raise fields.wrong(given[0], f"is no list of 1 to {most_rows} rows")
    elif given[0] == "conversations":
        conversations = [turns(Fields({"messages": one}, f"conversations[{at}]")) for at, one in enumerate(listed)]
    else:
        rows = listed if isinstance(listed[0], list) else [listed]
        for row in rows:
            if not are_ids(row, size):
                raise fields.wrong("input_ids", f"is no list of token ids in 0 .. {size - 1}")
    made = Scoring(model=fields.text("model"), conversations=conversations, rows=rows)
    fields.ignored("user", "request_id", "priority", "encoding_format")
    fields.neutral(activation=(False,), use_activation=(False,), add_generation_prompt=(False,), softmax=(False,))
    fields.end()
    return made


def _prompts(fields: Fields, size: int, most: int) -> Sequence[Prompt]:
    given = fields.any("prompt")
    if is_text(given):
        return [given]
    if are_ids(given, size):
        return [given]
    if isinstance(given, list) and given and all(is_text(one) or are_ids(one, size) for one in given):
        if len(given) > most:
            raise fields.wrong("prompt", f"is a list of {len(given)}, at most {most} are answered at once")
        return given
    raise fields.wrong("prompt", f"is neither text nor token ids in 0 .. {size - 1}, nor a list of these")


def _draw(
    fields: Fields, size: int, top: int | None, most_answers: int, default: int | None, least: int,
    limit: str = "max_tokens",
) -> Draw:  # fmt: skip
    n = fields.integer("n", 1, 1, max(1, most_answers))
    temperature = fields.number("temperature", 1.0, 0.0)
    if 0 < temperature < COLDEST:
        raise fields.wrong("temperature", f"is {temperature:g}, expected 0 (the likeliest token), or from {COLDEST:g}")
    top_p = fields.number("top_p", 1.0, 0.0, 1.0)
    if not top_p:
        raise fields.wrong("top_p", "is 0, expected above 0 and at most 1")
    top_k = fields.integer("top_k", 0, -1, 1 << 31)
    seed = fields.integer("seed", None, 1 - (1 << (_SEED_BITS - 1)), (1 << _SEED_BITS) - 1)
    stop, stop_ids = fields.texts("stop", _MOST_STOPS), fields.ids("stop_token_ids", size)
    fields.neutral(
        frequency_penalty=(0, 0.0), presence_penalty=(0, 0.0), repetition_penalty=(1, 1.0), logit_bias=({},),
        min_p=(0, 0.0), min_tokens=(0,), ignore_eos=(False,), use_beam_search=(False,), length_penalty=(1, 1.0),
        bad_words=([],), add_special_tokens=(False,), skip_special_tokens=(True,),
        include_stop_str_in_output=(False,),
        spaces_between_special_tokens=(True, False), truncate_prompt_tokens=(), allowed_token_ids=(),
    )  # fmt: skip
    assert n is not None and top_k is not None, "they have defaults"
    return Draw(
        n=n,
        most=fields.integer(limit, default, least, 1 << 31),
        temperature=temperature,
        top_p=top_p,
        top_k=max(0, top_k),
        seed=(int.from_bytes(os.urandom(8), "little") if seed is None else seed) % (1 << _SEED_BITS),
        stop=stop,
        stop_ids=stop_ids,
        top=top,
    )


def _extras(fields: Fields) -> dict[str, Any]:
    """What is wanted besides texts, and how it is sent."""
    stream = fields.flag("stream")
    options = Fields.of(fields.any("stream_options") or {}, "stream_options")
    usage = options.flag("include_usage")
    options.ignored("continuous_usage_stats", "include_obfuscation")
    options.end()
    fields.ignored("user", "metadata", "store", "service_tier", "request_id", "priority", "safety_identifier")
    fields.ignored("prompt_cache_key", "prompt_cache_retention", "cache_salt")
    form = fields.any("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    if form is not None and kind not in ("text", "json_object", "json_schema"):
        raise fields.wrong("response_format", "has a type that is none of text, json_object, json_schema")
    return {
        "stream": stream,
        "usage": usage,
        "token_ids": fields.flag("return_token_ids"),
        "as_ids": fields.flag("return_tokens_as_token_ids"),
        "ignored": ("response_format",) if kind in ("json_object", "json_schema") else (),
    }
