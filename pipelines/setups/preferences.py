"""Preference files: the answers teach a first policy, the pairs a reward model, the questions are what it grows on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.blend import Unpair
from datakit.sql import Query
from datakit.template import Rendering
from datakit.tokenize import Train as TrainTokenizer
from pipelines.cli.parameters import ListParameter, Number
from pipelines.graph.limits import longest_answer
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import imported
from pipelines.setups.setup_config import (
    SetupConfig,
    columns_parameter,
    first_policy,
    held_apart,
    learning_parameter,
    max_length,
    max_new_tokens,
    network,
    renamed,
    reward_model,
    vocabulary,
)
from pipelines.stages.iteration import PROMPTS_PER_SHARD, EvalSetup, TaskSetup
from pipelines.stages.rewards import baselines
from schemas.errors import ConfigError

_QUESTIONS = "SELECT DISTINCT ON (prompt_id) prompt_id, messages, tools, source FROM pairs ORDER BY prompt_id, pair_id"

_ANSWER = 64
"""Tokens of an answer, where nobody says how many."""


class preferences(SetupConfig):
    """Files of questions with a better and a worse answer; a share of the questions is held out of everything."""

    title = luigi.Parameter(default="preferences", description="what the data is called: the folder it lies in")
    files = ListParameter(
        default=(), description="files of pairs, as `Import` reads them; paths start from the current folder"
    )
    format = luigi.Parameter(default="preferences", description="format of the files (datakit.formats.forms)")
    layout = luigi.ChoiceParameter(
        default="auto", choices=["auto", "lines", "array"], description="one record a line, or one JSON list"
    )
    columns = columns_parameter("a file")
    held_out = Number(default=0.1, least=0, most=1, description="share of the questions that nothing is learnt from")
    learn = luigi.ChoiceParameter(
        default="chosen", choices=["chosen", "rejected", "both"], description="answers of the first policy"
    )
    vocabulary = vocabulary(2048)
    max_length = max_length(512)
    max_new_tokens = max_new_tokens(_ANSWER)
    architecture = network(
        num_layers=4, hidden_size=192, ffn_hidden_size=512, num_attention_heads=4, num_query_groups=4
    )
    model = network()
    base = learning_parameter(
        "the first policy",
        epochs=4,
        global_batch_size=32,
        optim={"lr": 1e-3, "warmup_steps": 20, "schedule": "cosine", "min_lr": 1e-4},
    )
    reward = learning_parameter(
        "the reward model",
        epochs=2,
        global_batch_size=16,
        optim={"lr": 3e-4, "warmup_steps": 10, "schedule": "cosine"},
    )
    improve = learning_parameter(
        "an improve step",
        epochs=1,
        global_batch_size=32,
        optim={"lr": 2e-4, "warmup_steps": 5, "schedule": "cosine", "min_lr": 2e-5},
    )

    def task_setup(self, plan: Plan, seed: int, rendering: Rendering, needed: Sequence[str] = ("reward",)) -> TaskSetup:
        """Pairs in two parts; of the first the tokenizer, the first policy, the reward model and the questions."""
        files = tuple(map(str, recursively_unfreeze(self.files)))
        if not files:
            raise ConfigError(
                "missing-setting",
                "[preferences] needs files",
                expected="files of questions with a better and a worse answer",
                kept="nothing was started",
                next="""--preferences-files '["pairs.jsonl"]'""",
            )
        given = {"source": self.title, **({} if self.layout == "auto" else {"layout": self.layout})}
        pairs = imported(plan, files, self.format, f"{self.title}/pairs", **given, **renamed(self.columns))
        label, flag = f"{self.title}/pairs.", "--preferences-held-out"
        train, held_out = held_apart(plan, label, pairs, self.held_out, seed, flag=flag, key="messages")
        learnt = TrainTokenizer(columns=("messages", "chosen", "rejected"), vocab_size=self.vocabulary)
        tokenizer = plan.table(f"{self.title}/tokenizer", learnt, train)
        sides: Any = self.learn
        answers = plan.table(f"{self.title}/answers", Unpair(sides=sides), train)
        policy = first_policy(plan, self.title, self, tokenizer, answers, rendering, seed)
        answer = longest_answer(self.max_new_tokens, _ANSWER, self.max_length, "--preferences-max-new-tokens")
        eval_setup = EvalSetup(
            name=self.title,
            held_out=self._questions(plan, "held-out", held_out),
            tokenizer=tokenizer,
            reward_model=None,
            verifier=None,
            max_new_tokens=answer,
            max_length=self.max_length,
            rendering=rendering,
        )
        model = reward_model(plan, self.title, (train, held_out), policy, eval_setup, self.reward, seed)
        return TaskSetup(
            eval_setup=replace(eval_setup, reward_model=model),
            prompts=self._questions(plan, "prompts", train),
            original=answers,
            policy=policy,
            reward_model=model,
            learning=self.improve,
            trained={"base": policy, "architecture": policy, "model": policy, "reward": model},
            baselines=baselines(plan, self.title, held_out),
            pairs=(train, held_out),
        )

    def _questions(self, plan: Plan, part: str, pairs: Node) -> Node:
        op = Query(query=_QUESTIONS, tables=("pairs",), kind="prompts", key=("prompt_id",))
        return plan.table(f"{self.title}/{part}", op, pairs, rows_per_shard=PROMPTS_PER_SHARD)
