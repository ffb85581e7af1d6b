"""Preference files: the answers teach a first policy, the pairs a reward model, the questions are what it grows on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.blend import Unpair
from datakit.io import Jsonl
from datakit.sql import Query
from datakit.template import Rendering
from datakit.tokenize import Train as TrainTokenizer
from pipelines.graph.learning import run_of
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.runtime.parameters import ListParameter, MergedParameter, Number, Whole
from pipelines.setups.source import SetupConfig, baselines, held_apart, reward_model
from pipelines.stages.iteration import PROMPTS_PER_SHARD, EvalSetup, TaskSetup, tokenized
from schemas.errors import ConfigError
from trainers.architecture import ModelConfig

_QUESTIONS = "SELECT DISTINCT ON (prompt_id) prompt_id, messages, tools, source FROM pairs ORDER BY prompt_id, pair_id"


class preferences(SetupConfig):
    """Files of questions with a better and a worse answer; a share of the questions is held out of everything."""

    title = luigi.Parameter(description="what the data is called: the folder it lies in")
    files = ListParameter(description="JSONL or JSON files, .gz too; paths start from the current folder")
    format = luigi.Parameter(description="format of the files (datakit.formats.forms)")
    layout = luigi.ChoiceParameter(choices=["lines", "array"], description="one record a line, or one JSON list")
    held_out = Number(least=0, most=1, description="share of the questions that nothing is learnt from")
    learn = luigi.ChoiceParameter(choices=["chosen", "rejected", "both"], description="answers of the first policy")
    vocabulary = Whole(description="size of the tokenizer that is trained")
    max_length = Whole(description="tokens of question and answer together; longer rows go")
    max_new_tokens = Whole(description="tokens of an answer, at most")
    model = MergedParameter(kind=ModelConfig, description="shape of the network (trainers.architecture.Model)")
    base = MergedParameter(description="learning of the first policy (trainers.config.Run)")
    reward = MergedParameter(description="learning of the reward model")
    improve = MergedParameter(description="learning of an improve step")

    def source(self, plan: Plan, seed: int, rendering: Rendering) -> TaskSetup:
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
        layout: Any = self.layout
        read = Jsonl(files=files, format=self.format, layout=layout, source=self.title)
        pairs = plan.table(f"{self.title}/pairs", read.pinned())
        train, held_out = held_apart(plan, f"{self.title}/pairs", pairs, self.held_out, seed)
        learnt = TrainTokenizer(columns=("messages", "chosen", "rejected"), vocab_size=self.vocabulary)
        tokenizer = plan.table(f"{self.title}/tokenizer", learnt, train)
        sides: Any = self.learn
        answers = plan.table(f"{self.title}/answers", Unpair(sides=sides), train)
        tokens = tokenized(plan, f"{self.title}/answers", tokenizer, answers, self.max_length, rendering)
        shape = {"max_sequence_length": self.max_length, **self.model}
        run = run_of("sft", self.base, seed=seed, model=shape, where="[preferences] base")
        policy = plan.model(f"{self.title}/policy", run, data=tokens, tokenizer=tokenizer)
        eval_setup = EvalSetup(
            name=self.title,
            held_out=self._questions(plan, "held-out", held_out),
            tokenizer=tokenizer,
            reward_model=None,
            verifier=None,
            max_new_tokens=self.max_new_tokens,
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
            baselines=baselines(plan, self.title, held_out),
            pairs=(train, held_out),
        )

    def _questions(self, plan: Plan, part: str, pairs: Node) -> Node:
        op = Query(query=_QUESTIONS, tables=("pairs",), kind="prompts", key=("prompt_id",))
        return plan.table(f"{self.title}/{part}", op, pairs, rows_per_shard=PROMPTS_PER_SHARD)
