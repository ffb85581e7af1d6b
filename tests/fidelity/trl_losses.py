"""A program: the losses of TRL, of log-probs that are given and of weights.

`python -m tests.fidelity.trl_losses IN.json OUT.json FOLDER`, with TRL on the path. IN holds the settings of every loss
and the numbers that it is of, FOLDER the networks `policy`, `reference` and `scorer` as transformers saves them. OUT
holds, for every loss, its mean and its gradient (of weights: the gradient's norm). It is TRL's code that computes them,
in trainers that were made without data, optimizer and network.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaForSequenceClassification
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.gkd import GKDTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference
from trl.trainer.reward_trainer import DataCollatorForPreference as DataCollatorForScores
from trl.trainer.utils import add_fused_lm_head

DPO = {"ld_alpha": None, "f_divergence_type": "reverse_kl", "use_weighting": False, "loss_weights": [1.0]}
CPO = {"alpha": 0.0, "cpo_alpha": 0.0, "label_smoothing": 0.0, "simpo_gamma": 0.0}
PAIRS = {"dpo": DPOTrainer, "simpo": CPOTrainer, "orpo": ORPOTrainer}


def made(kind: type, **settings: Any) -> Any:
    """A trainer of `kind` of which only the loss is asked."""
    trainer = kind.__new__(kind)
    one = {"device": torch.device("cpu"), "gather": lambda value: value, "gather_for_metrics": lambda value: value}
    asked = {"center_rewards_coefficient": None, "gradient_checkpointing_kwargs": None, **settings.pop("args", {})}
    vars(trainer).update(
        accelerator=SimpleNamespace(**one, autocast=nullcontext),
        args=SimpleNamespace(**asked),
        aux_loss_enabled=False,
        is_encoder_decoder=False,
        padding_value=0,
        pad_token_id=0,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )
    return trainer


class Answered:
    """A network that has answered: what it says of the tokens is given."""

    training = True

    def __init__(self, logprobs: Tensor, of_others: Tensor | None = None) -> None:
        self.logprobs, self.of_others = logprobs, of_others

    def __call__(self, input_ids: Tensor, **more: Any) -> Any:
        given = self.of_others if self.of_others is not None and bool(input_ids[0, 0]) else self.logprobs
        nothing = torch.zeros(given.shape)
        return SimpleNamespace(log_probs=given, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def padded(rows: Sequence[Sequence[float]], **kind: Any) -> Tensor:
    """[B, S], zeros behind the end of each row."""
    tensors = [torch.tensor(row, **kind) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def masks_of(rows: Sequence[Sequence[int]]) -> Tensor:
    """Masks with the place of the first token, which nothing predicts."""
    return padded([[0, *row] for row in rows], dtype=torch.long)


def parts_of(size: int, settings: Mapping[str, Any]) -> list[list[int]]:
    """Batches of `size` pairs: what TRL ranks in a batch (aot) it leaves alone in a batch of one."""
    return [[i] for i in range(size)] if "aot" in settings["loss_types"] else [list(range(size))]


def of_pairs(case: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A loss over pairs of given log-probs: [tokens] of chosen and of rejected."""
    values = padded(given["chosen"] + given["rejected"]).requires_grad_()
    mask = masks_of(given["chosen_mask"] + given["rejected_mask"])
    logprobs, settings = values * mask[:, 1:], dict(case["settings"])
    if case["trainer"] == "dpo":
        trainer = made(DPOTrainer, **DPO | settings, precompute_ref_logps=True)
        losses = []
        size = len(given["chosen"])
        for part in parts_of(size, settings):
            rows = [*part, *(size + i for i in part)]
            trainer.model = Answered(logprobs[rows])
            batch = {"input_ids": torch.zeros_like(mask[rows]), "completion_mask": mask[rows]}
            batch |= {"attention_mask": torch.ones_like(mask[rows])}
            batch |= {f"ref_{side}_logps": torch.tensor(given[f"ref_{side}"])[part] for side in ("chosen", "rejected")}
            losses.append(trainer._compute_loss(trainer.model, batch, False))
        loss = torch.stack(losses).mean()
    else:
        trainer = made(PAIRS[case["trainer"]], **(CPO if case["trainer"] == "simpo" else {}) | settings)
        counted = mask[:, 1:].sum(1)
        chosen, rejected = (logprobs.sum(1) / counted).chunk(2)
        first = len(given["chosen"])
        nll = -logprobs[:first].sum() / counted[:first].sum()
        if case["trainer"] == "simpo":
            loss = trainer.cpo_loss(chosen, rejected)[0].mean() + trainer.cpo_alpha * nll
        else:
            loss = nll - trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    return answer(loss, values)


def of_feedback(case: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """KTO of given log-probs, of answers and of mismatched ones."""
    values, mask = padded(given["answers"]).requires_grad_(), masks_of(given["answers_mask"])
    others, other_mask = padded(given["mismatched"]), masks_of(given["mismatched_mask"])
    trainer = made(KTOTrainer, **case["settings"], loss_type="kto", calculate_KL=True, precompute_ref_logps=True)
    trainer.model = Answered(values * mask[:, 1:], others * other_mask[:, 1:])
    batch = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "KL_input_ids": torch.ones_like(other_mask),
        "KL_attention_mask": torch.ones_like(other_mask),
        "KL_completion_mask": other_mask,
        "ref_logps": torch.tensor(given["ref_answers"]),
        "ref_KL_logps": torch.tensor(given["ref_mismatched"]),
        "label": torch.tensor(given["desirable"]),
    }
    return answer(trainer._compute_loss(trainer.model, batch, False), values)


def of_scores(case: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A reward model's loss of given scores."""
    values = torch.tensor(given["chosen_score"] + given["rejected_score"]).requires_grad_()
    trainer = made(RewardTrainer, args=case["settings"])
    batch: dict[str, Any] = {"attention_mask": torch.ones(2, 2, dtype=torch.long)}
    if case["margin"]:
        batch["margin"] = torch.tensor(given["margin"])
    trainer.model = lambda **_: SimpleNamespace(logits=values[:, None])
    trainer.model.training = True
    return answer(trainer.compute_loss(trainer.model, batch), values)


def of_logits(case: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Distillation of given logits over the whole vocabulary."""
    values = torch.tensor(given["student"]).requires_grad_()
    labels = torch.tensor([[0 if counted else -100 for counted in given["counted"]]])
    teacher = torch.tensor(given["teacher"])[None]
    return answer(GKDTrainer.generalized_jsd_loss(values[None], teacher, labels, **case["settings"]), values)


def answer(loss: Tensor, values: Tensor) -> dict[str, Any]:
    """The loss, and its gradient with respect to what was given."""
    loss.backward()
    assert values.grad is not None
    return {"loss": loss.item(), "gradient": values.grad.tolist()}


def from_weights(case: Mapping[str, Any], rows: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A loss of two networks and tokens: its mean, and the norm of the policy's gradient."""
    settings = dict(case["settings"])
    if case["trainer"] in ("rm", "rm with a margin"):
        network = LlamaForSequenceClassification.from_pretrained(folder / "scorer")
        pairs = rows["whole" if case["trainer"] == "rm" else "graded"]
        batch = DataCollatorForScores(pad_token_id=0).torch_call(pairs)
        trainer = made(RewardTrainer, args=settings, model=network)
        loss = trainer.compute_loss(network, batch)
    else:
        network, reference = (LlamaForCausalLM.from_pretrained(folder / name) for name in ("policy", "reference"))
        network.train()
        loss = _of_policy(case["trainer"], settings, rows, network, reference)
    loss.backward()
    squares = [value.grad.square().sum() for value in network.parameters() if value.grad is not None]
    return {"loss": loss.item(), "norm": torch.stack(squares).sum().sqrt().item()}


def _of_policy(name: str, settings: dict[str, Any], rows: Mapping[str, Any], network: Any, reference: Any) -> Any:
    if name in ("simpo", "orpo"):
        trainer = made(PAIRS[name], **(CPO if name == "simpo" else {}) | settings)
        batch: dict[str, Any] = {}
        for side in ("chosen", "rejected"):
            prompts, answers = ([row[key] for row in rows["pairs"]] for key in ("prompt_ids", f"{side}_ids"))
            whole = [[*prompt, *ids] for prompt, ids in zip(prompts, answers, strict=True)]
            batch[f"{side}_input_ids"] = padded(whole, dtype=torch.long)
            batch[f"{side}_attention_mask"] = padded([[1] * len(row) for row in whole], dtype=torch.long)
            labels = [[-100] * len(p) + ids for p, ids in zip(prompts, answers, strict=True)]
            tensors = [torch.tensor(row) for row in labels]
            batch[f"{side}_labels"] = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=-100)
        return trainer.get_batch_loss_metrics(network, batch)[0]
    if name == "kd":
        whole = [(row["prompt_ids"], row["chosen_ids"]) for row in rows["pairs"]]
        ids = padded([prompt + answer for prompt, answer in whole], dtype=torch.long)
        labels = ids.clone()
        for row, (prompt, answer) in enumerate(whole):
            labels[row, : len(prompt)] = labels[row, len(prompt) + len(answer) :] = -100
        with torch.no_grad():
            teacher = reference(ids).logits[:, :-1]
        return GKDTrainer.generalized_jsd_loss(network(ids).logits[:, :-1], teacher, labels[:, 1:], **settings)
    for model in (network, reference):
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    models = {"model": network, "ref_model": reference, "precompute_ref_logps": False}
    if name == "kto":
        trainer = made(KTOTrainer, **settings, **models, loss_type="kto", calculate_KL=True)
        batch = DataCollatorForUnpairedPreference(pad_token_id=0).torch_call(rows["feedback"])
    else:
        trainer = made(DPOTrainer, **DPO | settings, **models)
        losses = []
        for part in parts_of(len(rows["pairs"]), settings):
            batch = DataCollatorForPreference(pad_token_id=0).torch_call([rows["pairs"][i] for i in part])
            losses.append(trainer._compute_loss(network, batch, False))
        return torch.stack(losses).mean()
    return trainer._compute_loss(network, batch, False)


def main() -> None:
    """Every case of IN."""
    source, out, folder = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    asked = json.loads(source.read_text())
    ways = {"pairs": of_pairs, "feedback": of_feedback, "scores": of_scores, "logits": of_logits}
    answers = {name: ways[case["of"]](case, asked["given"]) for name, case in asked["cases"].items()}
    weights = {name: from_weights(case, asked["rows"], folder) for name, case in asked["weights"].items()}
    out.write_text(json.dumps({"cases": answers, "weights": weights}))


if __name__ == "__main__":
    main()
