"""label.steerlm2_weights: how often each answer to a request should come, and how often it does (SteerLM 2.0).

    weight_i   = softmax_i (log P(a|x,y_i) + log P(y_i|x) - log Q'(y_i|a,x))
    baseline_i = softmax_i (log Q(y_i|a,x) - log Q'(y_i|a,x))

over the answers y_i that Q' gave to the request a of question x: both are importance weights, of what should be, which
is in proportion to P(a|x,y) P(y|x), and of the policy Q. Wang et al., "HelpSteer2" (2024, arXiv:2406.08673).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens
from datakit.columns.measurement import NOT_FINITE, groups, measured, numbers
from datakit.columns.rejections import set_aside
from datakit.duck.whole import require_whole
from datakit.op import Context, Gather, Result
from schemas import Column, Schema, with_columns
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.rows.tokens import MASK

_ADDED = (
    Column("weight", pa.float64(), "what the answer's share of the request's answers should be", finite=True),
    Column("baseline", pa.float64(), "what it is, by the policy", finite=True),
    Column("group_size", pa.int32(), "answers to the request"),
    Column("group_tokens", pa.float64(), "counted tokens of an answer to the request, on average", finite=True),
)


@dataclass(frozen=True, kw_only=True)
class Steerlm2Weights(Gather):
    """Adds `weight` and `baseline`, each with the sum 1 over the rows of a `key`, and the two numbers that `steerlm2`
    divides by: `group_size`, and `group_tokens`, the mean number of tokens that `mask` counts (the first aside).

    A row with a log-probability that is null, NaN or infinite goes as `not-finite`, and the others share what is left;
    rows of a key with fewer than `least` of them go as `too-few-answers`, because one answer alone teaches nothing.
    """

    name: ClassVar[str] = "label.steerlm2_weights"
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    key: str = "prompt_id"
    """Rows with the same value are answers to one request."""
    attributes: str = "attribute_logprob"
    """log P(a|x,y)"""
    prior: str = "prior_logprob"
    """log P(y|x): what a model thinks of the answer where nothing is asked of it."""
    proposal: str = "ref_logprob"
    """log Q'(y|a,x), of the policy that gave the answers."""
    policy: str = "ref_logprob"
    """log Q(y|a,x), of the policy that training begins with; where it gave the answers itself, baselines are equal."""
    mask: str = "loss_mask"
    least: int = 2

    def __post_init__(self) -> None:
        if self.least < 2:
            raise ConfigError(
                "bad-setting",
                f"{self.name}: least is {self.least}, and one answer has no other to be more likely than",
                expected="2 at least",
                kept="nothing was started",
            )

    @property
    def takes(self) -> Schema:
        """Key, mask and the log-probabilities."""
        names = dict.fromkeys((self.attributes, self.prior, self.proposal, self.policy))
        columns = (Column(name, pa.float64(), "log-probability in nats", nullable=True) for name in names)
        key = Column(self.key, pa.string(), "rows with the same value are answers to one request")
        return Schema("answers", 1, (key, Column(self.mask, MASK, "1 where a token counts"), *columns))

    def gives(self, *inputs: Schema) -> Schema:
        return inputs[0].adding(*_ADDED)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """`DataError` where the answers to one request lie in two shards."""
        require_whole(dataset, self.key, self.name)
        return {}

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """Rows in their order with four columns more; what goes, with the reason."""
        group = groups(rows[self.key])
        attributes, prior, proposal, policy = (
            numbers(rows[name]) for name in (self.attributes, self.prior, self.proposal, self.policy)
        )
        weight, baseline = attributes + prior - proposal, policy - proposal
        finite = np.isfinite(weight + baseline)
        count = int(group.max()) + 1 if len(group) else 0
        size = np.bincount(group[finite], minlength=count)
        keep = finite & (size[group] >= self.least)
        kept, own = rows.filter(pa.array(keep)), group[keep]
        tokens = np.bincount(own, weights=CountedTokens.of(kept, self.mask).lengths_B, minlength=count) / np.maximum(
            size, 1
        )
        added = (
            _softmax(weight[keep], own, count),
            _softmax(baseline[keep], own, count),
            size[own].astype(np.int32),
            tokens[own],
        )
        columns = {column.name: numbers_B for column, numbers_B in zip(_ADDED, added, strict=True)}
        kept = with_columns(kept, columns)
        lost = ~keep
        reason = np.where(finite, "too-few-answers", NOT_FINITE)[lost]
        left = measured(np.where(finite, size[group], np.nan)[lost])
        gone = set_aside(rows.filter(pa.array(lost)), pa.array(reason, pa.string()), left, f"{self.least} answers")
        return Result(kept, gone)


def _softmax(values: npt.NDArray[np.float64], group: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Within each of `count` groups, of numbers of any size."""
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, group, values)
    shares = np.exp(values - highest[group])
    return np.asarray(shares / np.bincount(group, weights=shares, minlength=count)[group])
