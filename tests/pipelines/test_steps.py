"""The stages between conversations and tokens: a recipe that learns and a backend that is asked have the same ones."""

from __future__ import annotations

from pathlib import Path

from datakit.io import Reversal
from datakit.label import Logprobs
from datakit.template import Condition, Rendering
from datakit.tokenize import Train
from pipelines.graph.backend import Step
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.graph.steps import after_steps, answer_steps
from pipelines.stages.ask import Reading, ask
from pipelines.stages.iteration import tokenized
from pipelines.stages.losses import token_rows
from trainers.config import training_of

SHAPE = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 1, "num_query_groups": 1}


def ops(node: Node) -> list[str]:
    return [one.op.name for one in node.ancestors() if isinstance(one, Table)]


def test_what_is_learnt_is_read_as_a_model_that_is_asked_about_it_reads_it(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path))
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    tokenizer = plan.table("tokenizer", Train(vocab_size=288), rows)
    learning = {"epochs": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}}
    training = training_of("sft", learning, seed=0, model={**SHAPE, "max_sequence_length": 32})
    data = tokenized(plan, "rows", tokenizer, rows, 32)
    policy = plan.model("policy", training, data=data, tokenizer=tokenizer)
    reading = Reading(max_length=32)
    asked = ask(plan, "asked", Logprobs(), rows, policy, reading=reading)
    assert asked.inputs[0].task_key == token_rows(plan, "learnt", rows, policy, reading).task_key
    assert token_rows(plan, "again", asked, policy, reading) is asked


def test_a_stage_may_stand_between_text_and_tokens(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path))
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    tokenizer = plan.table("tokenizer", Train(vocab_size=288), rows)
    between = (Step(name="first", op=Condition(column="response")),)
    steps = answer_steps(Rendering(), 32, rows.schema, between)
    made = after_steps(plan, "x", steps, rows, tokenizer)
    assert ops(made)[-3:] == ["template.chat", "template.condition", "tokenize.mask"]
    assert [one.label for one in made.ancestors()][-3:] == ["x.texts", "x.first", "x.tokens"]
