"""SteerLM 2.0: the policy of SteerLM answers, and learns how often each answer to a request should have come.

    SteerLm -> policy                           --data without attributes -> SFT -> prior
    requests of this iteration: training questions x attributes x levels, drawn by lot
      -> several answers of the policy of the iteration before
      -> label.attributes, label.attribute_logprob          log P(a|x,y): is it what was asked for?
      -> label.logprobs of the prior                        log P(y|x):   is it an answer to the question?
      -> label.logprobs of that policy                      log Q(y|a,x): how often does it come?
      -> label.steerlm2_weights -> train.steerlm2 -> policy, asked and measured as SteerLm's is

Wang et al., "HelpSteer2" (2024, arXiv:2406.08673); NeMo-Aligner has the loss, and no way to make its rows. Answers are
drawn at temperature 1 from all tokens, as importance weights suppose; of one that was cut off what was drawn
counts, and no end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from luigi.freezing import recursively_unfreeze

from datakit.label import AttributeLogprob, Attributes, Logprobs, Steerlm2Weights
from datakit.report import Measure
from datakit.sql import Query
from pipelines.cli.parameters import Number, Whole
from pipelines.cli.references import model_parameter
from pipelines.commands.one_shot import OneShotSetup, learning_over
from pipelines.graph.backend import model_at
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.graph.steps import after_steps, answer_steps
from pipelines.recipes.steer_lm import CONDITIONED, SteerLm
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.report.requested import requested_table
from pipelines.stages import requested
from pipelines.stages.ask import ask, asked
from pipelines.stages.iteration import drawn_prompts, iteration_seed
from pipelines.stages.losses import token_rows
from trainers.config import merged, training_of

_DRAWN = ("error", "wanted_error", "distance")
_COLUMNS = (
    Figure("iteration"),
    Figure("answers", ",.0f", meaning="that the policy before it gave, at temperature 1"),
    Figure("error", ".3g", meaning="mean distance of their measured value from the level asked for"),
    Figure("error wanted", ".3g", meaning="the same, were each to come as often as it should"),
    Figure("distance", ".3g", meaning="divergence of how often they come from that, nats a request"),
)


class SteerLm2Iteration(SteerLm):
    """Iteration `iteration` of SteerLM 2.0; those before it, and SteerLM, are made first."""

    iteration = Whole(default=1, description="which iteration; those before it are required")
    prompts_per_iteration = Whole(
        default=256, description="questions with attributes of one iteration; each is used in one iteration only"
    )
    samples_per_prompt = Whole(least=2, default=8, description="answers to each of them")
    attribute_std = Number(default=0.5, least=1e-6, description="standard deviation of the reward model's errors")
    prior = model_parameter("model of answers to plain questions; empty: trained on --data as SteerLM is", "model")
    rounds = learning_over(optim={"lr": 1e-6})

    def results(self, plan: Plan) -> Results:
        """What SteerLM makes, and of every iteration its answers, rows, policy and figures."""
        given, reward_model = self.one_shot_setup(plan), self.reward_model(plan)
        first = self.steered_policy(plan, given, reward_model)
        prior, policy = self._prior(plan, given), first.checkpoints["policy"]
        requests = self.requests(plan, f"{given.label}/train.requests", given.train)
        datasets, checkpoints = dict(first.datasets), {"first": policy, "prior": prior}
        figures = {"first": first.figures["evaluation"]}
        for number in range(1, self.iteration + 1):
            label = f"{given.label}/iter={number}"
            drawn = drawn_prompts(plan, label, requests, self.prompts_per_iteration, number, self.settled_seed)
            samples = self._samples(plan, label, given, drawn, policy, iteration_seed(self.settled_seed, number))
            training = self._training(label, number)
            asking = Logprobs(per="row", precision=training.learning.precision)
            rows = self._rows(plan, label, given, samples, reward_model, (prior, policy), asking)
            policy = plan.model(f"{label}/policy", training, data=rows, tokenizer=given.model, init=policy)
            figures[f"iter={number}/drawn"] = self._drawn_figures(plan, label, rows)
            prompts = self.held_out_prompts(plan, given, policy)
            answers, figures[f"iter={number}"] = self.measured(plan, label, given, prompts, policy, reward_model)
            prefix = "" if number == self.iteration else f"iter={number}/"
            datasets |= {f"{prefix}samples": samples, f"{prefix}learnt": rows, f"{prefix}answers": answers}
            checkpoints[f"{prefix}policy"] = policy
        return Results(targets=(*figures.values(), policy), datasets=datasets, checkpoints=checkpoints, figures=figures)

    def report(self) -> Sequence[FigureTable]:
        """Of SteerLM's policy, and of every iteration's, what was measured at every level that was asked for; of every
        iteration the answers that it learnt from.
        """
        _, steered = self.names()
        figures = {name: metrics(node) for name, node in self.graph.figures.items()}
        asked_of = {
            name: requested_table(self.task_family, "attribute", steered, self.requested_levels, figures[name])
            for name in ("first", *(f"iter={number}" for number in range(1, self.iteration + 1)))
        }
        first = asked_of["first"]
        rows = tuple((name, *row) for name, table in asked_of.items() for row in table.rows)
        drawn = [(number, figures[f"iter={number}/drawn"]) for number in range(1, self.iteration + 1)]
        learnt = tuple((n, own["error.count"], *(own[f"{name}.mean"] for name in _DRAWN)) for n, own in drawn)
        return [
            FigureTable(first.title, (Figure("policy"), *first.columns), rows),
            FigureTable(f"{self.task_family}: answers that were learnt from", _COLUMNS, learnt),
        ]

    def _drawn_figures(self, plan: Plan, label: str, rows: Node) -> Node:
        """Figures of the answers that an iteration learns from, as they came and as they should have."""
        error, share = f"abs({self.measured_sql} - requested)", "group_size * weight"
        query = (
            f"SELECT sample_id, {error} AS error, {share} * {error} AS wanted_error, "
            f"{share} * ln(greatest(weight, 1e-300) / greatest(baseline, 1e-300)) AS distance FROM rows"
        )
        table = plan.table(f"{label}/drawn", Query(query=query, tables=("rows",), key=("sample_id",)), rows)
        return plan.table(f"{label}/drawn.figures", Measure(stage=f"{label}/drawn", columns=_DRAWN), table)

    def _training(self, label: str, number: int) -> Any:
        changes: Mapping[str, Any] = self.changes.get("rounds", {})
        learning = merged(recursively_unfreeze(self.rounds), changes)
        seed = iteration_seed(self.settled_seed, number)
        return training_of("steerlm2", learning, seed=seed, where=f"rounds of {label}")

    def _prior(self, plan: Plan, given: OneShotSetup) -> Node:
        """The model that `--prior` names, or the first one after fine-tuning on the rows as they are."""
        if self.prior:
            return model_at(plan, self.prior, "model")
        label, parts = f"{given.label}/prior", {}
        for part, rows in given.parts.items():
            parts[part] = token_rows(plan, f"{label}/{part}", rows, given.model, given.reading)
        return plan.model(
            label,
            self.training_for(label),
            data=parts["train"],
            tokenizer=given.model,
            init=given.model,
            validation=parts["held-out"],
        )

    def _samples(self, plan: Plan, label: str, given: OneShotSetup, drawn: Node, policy: Node, seed: int) -> Node:
        """Several answers of `policy` to each of the requests `drawn`."""
        likeliest = self.likeliest(given.reading)
        sampling = replace(likeliest, greedy=False, samples_per_prompt=self.samples_per_prompt)
        prompts = self.prompts(plan, f"{label}/asked", drawn, policy, given.reading, sampling)
        return requested.answers(plan, f"{label}/samples", prompts, policy, sampling, seed)

    def _rows(
        self,
        plan: Plan,
        label: str,
        given: OneShotSetup,
        samples: Node,
        reward_model: Node,
        models: tuple[Node, Node],
        asking: Logprobs,
    ) -> Node:
        """`samples` as rows of `steerlm2`; `models` are the prior and the policy that gave them, asked as `asking`
        says.
        """
        prior, policy = models
        measuring = Attributes(names=self.names()[0], column="measured")
        judged = ask(plan, f"{label}/measured", measuring, samples, reward_model, reading=given.reading)
        fitting = plan.table(f"{label}/fitting", AttributeLogprob(std=(self.attribute_std,)), judged)
        rendering = given.reading.rendering.for_model(given.model.trained_template)
        steps = answer_steps(rendering, given.reading.max_length, rows_of(fitting), CONDITIONED)
        text, attributes, tokens = steps
        plain = after_steps(plan, f"{label}/plain", (text, tokens), fitting, given.model)
        asking = replace(asking, columns=(("input_ids", "loss_mask", "prior_logprob"),))
        known = asked(plan, f"{label}/plain.logprobs", asking, plain, prior)
        learnt = after_steps(plan, f"{label}/learnt", (attributes, tokens), known, given.model)
        asking = replace(asking, columns=(("input_ids", "loss_mask", "ref_logprob"),))
        given_often = asked(plan, f"{label}/learnt.logprobs", asking, learnt, policy)
        return plan.table(f"{label}/learnt", Steerlm2Weights(), given_often)
