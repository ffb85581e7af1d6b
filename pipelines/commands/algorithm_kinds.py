"""Which algorithms a recipe may be given, by the rows that it has for them."""

from __future__ import annotations

from pipelines.cli.learning import ByAlgorithm
from pipelines.stages.losses import learns_answers
from pipelines.stages.preference_rows import learns_preferences


class LearnsAnswers(ByAlgorithm):
    """Of a recipe that has answers one by one."""

    fits = staticmethod(learns_answers)
    unfit = "does not learn from answers one by one"
    fitting = "another recipe (quiver recipes), or an algorithm over input_ids and loss_mask"


class LearnsPreferences(ByAlgorithm):
    """Of a recipe that has pairs of answers, or answers that are wanted or not."""

    fits = staticmethod(learns_preferences)
    unfit = "learns no preferences"
    fitting = "an algorithm over pairs of answers, or over answers that are wanted or not"
