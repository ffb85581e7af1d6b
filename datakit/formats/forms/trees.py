"""Records that are not flat: OpenAssistant's message trees, and NeMo-Gym's tasks and rollouts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from datakit.columns.conversations import flat
from datakit.formats.forms.completions import REWARDED, answered
from datakit.formats.forms.form import ASKED, SYSTEM, TOOLS, Built, Form
from datakit.formats.forms.prompts import asked
from datakit.formats.keys import ANSWER, LITERAL, NUMBER, QUESTION, Key
from datakit.formats.turns import InvalidValue, joined_parts
from schemas import PROMPTS, Column

RANKED = REWARDED.adding(
    Column("reward", pa.float64(), "minus the rank among the replies, null where none is given", True, True)
).renamed("ranked", version=REWARDED.version, key=("sample_id",))
SCORED = REWARDED.adding(PROMPTS["answer"]).renamed("rollouts", version=REWARDED.version, key=("sample_id",))

Record = dict[str, Any]

_USED = ("responses_create_params", "response", "expected_answer", "answer", "reward")


def _replies(tree: Any) -> Iterator[Record]:
    """Every answer in a tree, with the turns before it; walked without recursion, a question's answers together."""
    root = tree.get("prompt")
    if not isinstance(root, Mapping):
        raise InvalidValue("missing-key", f"prompt: a message with replies (there: {', '.join(map(str, tree))})")
    waiting: list[tuple[Mapping[str, Any], list[Record]]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        turns = [*before, {"role": node["role"], "content": node["text"]}]
        replies = [reply for reply in node.get("replies") or [] if not reply.get("deleted")]
        if node["role"] == "prompter":
            for reply in replies:
                if reply.get("role") != "assistant":
                    raise InvalidValue(
                        "wrong-type", f"answers of the role assistant (there: {str(reply.get('role'))[:40]})"
                    )
                rank = reply.get("rank")
                reward = None if rank is None else -float(rank)
                rest = {name: value for name, value in tree.items() if name != "prompt"}
                yield {**rest, "prompt": turns, "response": reply["text"], "reward": reward}
        waiting += [(reply, turns) for reply in reversed(replies)]


def _ranked(raw: pa.Table, dialogue: str) -> Built:
    built = answered(raw, dialogue)
    return Built({**built.columns, "reward": flat(raw["reward"])}, built.faults)


def _task(record: Any) -> Record:
    """The question of a record of NeMo-Gym: what its model server is asked."""
    asks = record.get("responses_create_params")
    if not isinstance(asks, Mapping) or asks.get("input") in (None, "", []):
        raise InvalidValue("missing-key", f"responses_create_params.input (there: {', '.join(map(str, record))})")
    answer = record.get("expected_answer", record.get("answer"))
    given = asks["input"]
    rest = {name: value for name, value in record.items() if name not in _USED}
    return {
        **rest,
        "prompt": given if isinstance(given, str) else [_item(item) for item in given],
        "system": asks.get("instructions"),
        "tools": asks.get("tools") or None,
        "answer": answer if isinstance(answer, str | int | float) else None,
    }


def _item(item: Mapping[str, Any]) -> Record:
    """A turn of an item of OpenAI's Responses API."""
    kind = item.get("type") or "message"
    if kind == "function_call":
        call = {"type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        return {"role": "assistant", "content": "", "tool_calls": [{**call, "id": item.get("call_id")}]}
    if kind == "function_call_output":
        output = item["output"]
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        return {"role": "tool", "content": text, "tool_call_id": item.get("call_id")}
    if kind != "message":
        raise InvalidValue("content-part", f"messages and function calls, not an item of type {str(kind)[:40]}")
    return {"role": item.get("role"), "content": item.get("content")}


def _tasks(record: Any) -> Iterator[Record]:
    yield _task(record)


def _rollouts(record: Any) -> Iterator[Record]:
    """The answer is the text of the response's messages; what the model thought before is not part of it."""
    response = record.get("response")
    if not isinstance(response, Mapping) or record.get("reward") is None:
        raise InvalidValue("missing-key", f"response and reward (there: {', '.join(map(str, record))})")
    items = [item for item in response.get("output") or [] if item.get("type") != "reasoning"]
    if any((item.get("type") or "message") != "message" for item in items):
        raise InvalidValue("answer-with-tool-calls", "a response of messages alone")
    contents = [item["content"] for item in items]
    text = "".join(content if isinstance(content, str) else joined_parts(content) for content in contents)
    yield {**_task(record), "response": text, "reward": record["reward"]}


def _prompts(raw: pa.Table, dialogue: str) -> Built:
    built = asked(raw, "prompt")
    return Built({**built.columns, "answer": flat(raw["answer"])}, built.faults)


def _scored(raw: pa.Table, dialogue: str) -> Built:
    built = answered(raw, dialogue)
    return Built({**built.columns, "answer": flat(raw["answer"]), "reward": flat(raw["reward"])}, built.faults)


_PROMPT, _GOLD = Key("prompt", QUESTION), Key("answer", LITERAL, required=False)

FORMS = (
    Form(
        "oasst",
        "{prompt: {role, text, replies: [{role, text, rank?, replies}, ...]}}: answers, rewarded with minus their rank",
        (_PROMPT, Key("response", ANSWER), Key("reward", NUMBER, required=False)),
        RANKED,
        _ranked,
        records=_replies,
        roots=("prompt",),
    ),
    Form(
        "nemo_gym",
        "{responses_create_params: {input, instructions?, tools?}, expected_answer? | answer?}: tasks as prompts",
        (_PROMPT, _GOLD, SYSTEM, TOOLS),
        PROMPTS,
        _prompts,
        refused=ASKED,
        records=_tasks,
        roots=_USED,
    ),
    Form(
        "nemo_gym_rollouts",
        "{responses_create_params, response: {output: [...]}, reward, expected_answer? | answer?}: rewarded answers",
        (_PROMPT, Key("response", ANSWER), Key("reward", NUMBER), _GOLD, SYSTEM, TOOLS),
        SCORED,
        _scored,
        records=_rollouts,
        roots=_USED,
    ),
)
