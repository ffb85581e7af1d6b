"""Every stage as a command of its own, for someone with nothing but a checkpoint and a file.

    luigi --module pipelines Import   --files rows.jsonl.gz --format completions
    luigi --module pipelines Generate --model CHECKPOINT --prompts prompts.jsonl --samples-per-prompt 16
    luigi --module pipelines Label    --data SAMPLES --op reward --model CHECKPOINT
    luigi --module pipelines Filter   --data SAMPLES --op where --params '{"predicate": "reward > 0"}'
    luigi --module pipelines Blend    --data A,B --op mix --params '{"sources": ["a", "b"], "weights": [1, 1]}'
    luigi --module pipelines Template --data ROWS --op chat --tokenizer CHECKPOINT
    luigi --module pipelines Tokenize --data TEXTS --op mask --tokenizer CHECKPOINT
    luigi --module pipelines Train    --data TOKENS --algorithm sft --model CHECKPOINT

A model is a checkpoint folder, a Hugging Face folder, `module:function` for scores: what `pipelines.backends` lists.
Inputs are dataset folders, or files (`datakit.formats.layouts` says which), whose `--format` is a name of
`datakit.formats.forms`. `--op` names an operation of the command's family, `--params` its settings. Where a result lies
is printed; the same command again does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.generate import Complete
from datakit.op import Op, Read
from datakit.registry import kind_of, op_of
from pipelines.cli import invocation
from pipelines.cli.learning import AssignmentsParameter, Learns, MergedParameter, training_asked
from pipelines.cli.parameters import ObjectParameter, Whole
from pipelines.cli.references import model_parameter, reference
from pipelines.commands.command import Command
from pipelines.commands.files import ReadsFiles
from pipelines.commands.templated import Bounded, BoundedAnswers, Sampled, Templated, is_templated
from pipelines.commands.unread_file import no_tokens
from pipelines.graph.backend import checkpoint_at, model_at, roles_of
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import any_at, imported, places_in, stem
from pipelines.report.figures import lines
from pipelines.report.set_aside import set_aside
from pipelines.runtime import settings
from schemas.errors import ConfigError
from schemas.process import terminal
from schemas.store.storage import normal


class StageCommand(Command):
    """One stage. `name` is the label of the result; by default it is made of the command and the input."""

    family: ClassVar[str] = ""

    name = luigi.Parameter(default="", description="label of the result under the root; empty: made of the input's")

    def after(self) -> None:
        """Which rows its stages could not use, then where the results lie: the last word is a place."""
        for note in set_aside(self.targets, self.length_flag):
            print(terminal.wrapped(note))
        super().after()

    def label(self, *places: str) -> str:
        """Where the result stands below the root."""
        return self.name or f"{self.task_family.lower()}/{'+'.join(stem(place) for place in places)}"

    def operation(self, name: str, params: Mapping[str, Any]) -> Op:
        """The operation of this command's family."""
        with settings.own_settings(params):
            return op_of(self.full_name(name), recursively_unfreeze(dict(params)))

    def full_name(self, name: str) -> str:
        """`name` with its family; `ConfigError` where that is not this command's."""
        full = name if "." in name else f"{self.family}.{name}"
        if not full.startswith(f"{self.family}."):
            raise ConfigError(
                "wrong-family",
                f"{full} is no {self.family} operation",
                expected=f"{self.family}.*",
                kept="nothing was started",
                next=f"luigi --module pipelines {self.task_family} --help",
            )
        return full


class _OfFiles(ReadsFiles, StageCommand):
    """A stage whose rows may be files."""


class _Operation(_OfFiles):
    """A command that runs one named operation over datasets."""

    data = luigi.Parameter(
        default="",
        description="dataset (name or folder) or file; several, divided by commas, for what takes several; none for a "
        "reader",
    )
    op = luigi.Parameter(description="name of the operation, with or without its family")
    params = ObjectParameter(default={}, description="settings of the operation, as JSON")
    tokenizer = luigi.Parameter(default="", description="tokenizer dataset, checkpoint, or tokenizer from outside")

    def build(self, plan: Plan) -> Sequence[Node]:
        """The inputs, and the operation over them."""
        places = places_in(self.data)
        op = self.operation(self.op, self.params)
        if isinstance(op, Read):
            return [plan.table(self.label(op.origin), op.pinned())]
        if not places:
            raise ConfigError(
                "missing-input", f"{op.name} reads rows; no --data was given", kept="nothing was started",
                next=invocation.completed("--data FOLDER_OR_FILE"),
            )  # fmt: skip
        inputs = [self.rows(plan, place) for place in places]
        return [self.node(plan, self.label(*places), op, inputs)]

    def node(self, plan: Plan, label: str, op: Op, inputs: Sequence[Node]) -> Node:
        """The operation over its inputs, with its tokenizer where it needs one."""
        tokenizer = any_at(plan, self.tokenizer) if self.tokenizer else None
        seed = settings.quiver_config().seed
        return plan.table(label, op, *inputs, seed=seed, tokenizer=tokenizer)


class Import(_OfFiles):
    """Outside files to a dataset."""

    family = "io"
    example = "--files rows.jsonl.gz --format completions"

    files = luigi.Parameter(
        description="files, divided by commas: JSON Lines, JSON, CSV, TSV or Parquet, compressed or not"
    )
    params = ObjectParameter(default={}, description="more settings of io.jsonl, io.csv or io.parquet, as JSON")

    def build(self, plan: Plan) -> Sequence[Node]:
        files = tuple(places_in(self.files))
        params = {**self.file_settings, **recursively_unfreeze(dict(self.params))}
        with settings.own_settings(params):
            return [imported(plan, files, self.format or self.usual_format, self.label(*files), **params)]


class Generate(Sampled, BoundedAnswers, _OfFiles):
    """Answers of a policy to prompts."""

    family = "generate"
    example = "--model CHECKPOINT --prompts prompts.jsonl --samples-per-prompt 16"
    usual_format = "prompts"

    model = model_parameter("generator", "generator")
    policy = luigi.Parameter(default="", description="--model")
    prompts = luigi.Parameter(description="dataset (name or folder) or file of prompts")
    greedy = luigi.BoolParameter(default=False, description="the likeliest token each time, instead of a draw")

    def build(self, plan: Plan) -> Sequence[Node]:
        """Templated, tokenized where that is not done yet, answered."""
        policy, rows = model_at(plan, reference(self, "policy"), "generator"), self.rows(plan, self.prompts)
        label = self.label(self.prompts)
        longest, answer = self.bounds([policy])
        sampling = self.sampling(answer, self.rendering.stop, greedy=self.greedy)
        room, seed = None if longest is None else longest - answer, settings.quiver_config().seed
        return [self.asking(plan, label, Complete(sampling=sampling), rows, policy, seed=seed, max_length=room)]


class Label(Templated, Bounded, _Operation):
    """A number or a finding on every row."""

    family = "label"
    example = "--data SAMPLES --op reward --model CHECKPOINT"

    model = model_parameter("scorer, or that is asked about tokens", "scorer", "model")
    reward_model = luigi.Parameter(default="", description="--model")

    def node(self, plan: Plan, label: str, op: Op, inputs: Sequence[Node]) -> Node:
        """As for other commands; where the operation asks a model, what that reads is made first."""
        roles = roles_of(op)
        if not roles:
            self.nothing_templated(f"{op.name} reads no templated text")
            if self.model or self.reward_model:
                raise ConfigError(
                    "unknown-resource",
                    f"{op.name} asks no model",
                    kept="nothing was started",
                    next=invocation.without("--model", "--reward-model"),
                )
            return super().node(plan, label, op, inputs)
        if len(inputs) != 1:
            raise ConfigError("bad-setting", f"{op.name} reads one --data", kept="nothing was started")
        model = model_at(plan, reference(self, "reward_model"), roles[0])
        tokenizer = any_at(plan, self.tokenizer) if self.tokenizer else None
        longest = self.longest([model])
        return self.asking(plan, label, op, inputs[0], model, tokenizer=tokenizer, max_length=longest)


class Filter(_Operation):
    """A decision over every row; rows that go stand beside the result with their reason."""

    family = "filter"
    example = '--data SAMPLES --op where --params \'{"predicate": "reward > 0"}\''
    usual_format = "rewarded"
    other_formats = ("completions", "prompts")


class Blend(_Operation):
    """Datasets mixed, shuffled, split or paired."""

    family = "blend"
    example = '--data A,B --op mix --params \'{"sources": ["a", "b"], "weights": [1, 1]}\''


class Measure(_Operation):
    """Figures of datasets, with intervals: means, agreement of two labels, the difference of two datasets."""

    family = "measure"
    example = """--data JUDGED --op agreement --params '{"one": "judge", "other": "human"}'"""

    def after(self) -> None:
        """The figures, and where they lie."""
        print(lines(self.targets[0].url))
        super().after()


class Template(Templated, _Operation):
    """Conversations to text, with the answer where rows have one (`--params '{"response": null}'`: without); as a
    checkpoint that is given as tokenizer learnt to read them.
    """

    family = "template"
    example = "--data ROWS --op chat --tokenizer CHECKPOINT"

    def operation(self, name: str, params: Mapping[str, Any]) -> Op:
        """As for other commands, with what this one and the configuration say of templating, where it is settable."""
        kind = kind_of(self.full_name(name))
        if not is_templated(kind):
            self.nothing_templated(f"{kind.name} has no such settings")
            return super().operation(name, params)
        return super().operation(name, self.agreed(recursively_unfreeze(dict(params))))

    def node(self, plan: Plan, label: str, op: Op, inputs: Sequence[Node]) -> Node:
        """As for other commands; with defaults that suit the rows, and as the tokenizer's template says."""
        op = op.over([rows.schema for rows in inputs], self.params)
        if self.tokenizer and op.rendering is not None and is_templated(type(op)):
            written: Any = op.rendering.for_model(any_at(plan, self.tokenizer).trained_template).settings
            op = replace(op, **written)
        return super().node(plan, label, op, inputs)


class Tokenize(_Operation):
    """Text to tokens; `--op train` makes a tokenizer, `--op adopt --params '{"path": PLACE}'` takes one in."""

    family = "tokenize"
    example = "--data TEXTS --op mask --tokenizer CHECKPOINT"


class Train(Learns, StageCommand):
    """A training run on token rows."""

    family = "train"
    example = "--data TOKENS --algorithm sft --model CHECKPOINT"

    data = luigi.Parameter(description="dataset (name or folder) of token rows (tokenize.mask) or token pairs")
    algorithm = luigi.Parameter(default="sft", description="name of an algorithm of trainers.algorithms")
    model = model_parameter("start")
    init = luigi.Parameter(default="", description="--model")
    architecture = ObjectParameter(default={}, description="a fresh network, as JSON (trainers.architecture)")
    tokenizer = luigi.Parameter(default="", description="tokenizer dataset; needed for a fresh network")
    validation = luigi.Parameter(default="", description="dataset (name or folder) to validate on")
    learning = MergedParameter(
        default={"epochs": 1, "global_batch_size": 64, "optim": {"lr": 1e-5}},
        description="settings of training, as JSON, over the defaults: optim, epochs, ...",
    )
    set = AssignmentsParameter(default=(), description="one of them as key=value, e.g. optim.lr=1e-4; may be repeated")
    ranks = Whole(least=0, default=0, description="processes; 0: what [launch] says", significant=False)

    def build(self, plan: Plan) -> Sequence[Node]:
        start = reference(self, "init", required=not self.architecture)
        if start and self.architecture:
            raise ConfigError("bad-setting", "give one of --model and --architecture", kept="nothing was started")
        if not (start or self.tokenizer):
            raise ConfigError("bad-setting", "a fresh network needs --tokenizer", kept="nothing was started")
        shape, seed = dict(self.architecture) or None, settings.quiver_config().seed
        training = training_asked(self, seed=seed, model=shape, where="--learning")
        init = checkpoint_at(plan, start) if start else None
        tokenizer = any_at(plan, self.tokenizer) if self.tokenizer else init
        assert tokenizer is not None
        return [
            plan.model(
                self.label(self.data),
                training,
                data=self._token_rows(plan, self.data),
                tokenizer=tokenizer,
                init=init,
                validation=self._token_rows(plan, self.validation) if self.validation else None,
                ranks=self.ranks,
            )
        ]

    def _token_rows(self, plan: Plan, place: str) -> Node:
        """The dataset in the folder `place`; `ConfigError` for what is none."""
        if os.path.isfile(normal(place)):
            raise no_tokens(self.data if os.path.isfile(normal(self.data)) else place, self.algorithm)
        return plan.existing(place, "dataset")
