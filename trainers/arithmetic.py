"""Pure functions that losses are made of; nothing here knows a network, a process group or a file.

Importing this module does not import torch: tensors come with their methods.

Legend: T tokens of several rows laid end to end, B rows. Rows are distinguished by `row_T`, the row of every token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.rows.attributed import NOT_JUDGED

if TYPE_CHECKING:
    from torch import Tensor


def judged(labels: Tensor) -> Tensor:
    """Where a label is a judgement: neither NaN (a null in the table) nor -100."""
    return ~(labels.isnan() | (labels == NOT_JUDGED))


def sum_per_row(values_T: Tensor, row_T: Tensor, num_rows: int) -> Tensor:
    """[B] sums of the tokens of every row; a row without tokens is 0. With log-probs: that of the whole sequence."""
    return values_T.new_zeros(num_rows).index_add(0, row_T, values_T)


def bradley_terry(difference: Tensor) -> Tensor:
    """-log sigma(d): how surprising it is that the first of two won when it scored `d` more.

    Bradley and Terry, "Rank Analysis of Incomplete Block Designs" (1952). Exact for large |d| of either sign.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(difference)
