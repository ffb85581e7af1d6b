"""Kinds of networks that learn beside a policy, one file each: this list is the registry. The contract is in
`pipelines.online.learner`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from pipelines.online.learner import Learner as Learner
from pipelines.online.learners.critic import Critic as Critic

KINDS: Mapping[str, type[Learner]] = {
    kind.name: kind
    for kind in list(vars().values())
    if inspect.isclass(kind) and issubclass(kind, Learner) and kind is not Learner
}
"""Kinds by name."""
