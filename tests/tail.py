"""What takes long: the files that start first; the long tail, parameters that `make test` leaves out and
`make test-slow` runs, beside kin that stay.
"""

from __future__ import annotations

from typing import Any

import pytest

LONGEST = """
schemas/test_commit_faults.py schemas/test_s3.py test_notebooks.py
datakit/test_every_op.py pipelines/test_every_recipe.py trainers/test_parallel_curves.py test_pages.py
pipelines/test_bad_input.py trainers/test_every_algorithm.py trainers/test_resume.py trainers/test_lora.py
trainers/test_online.py trainers/test_shapes.py test_planted.py test_program.py trainers/test_run.py
security/test_fuzz.py trainers/test_trainer.py pipelines/launch/test_faults.py datakit/catalog/test_views.py
datakit/catalog/test_forensics.py pipelines/launch/test_listening.py pipelines/test_kill.py datakit/io/test_npy.py
datakit/sql/test_child.py pipelines/test_command.py test_imports.py pipelines/test_interactive.py
pipelines/launch/test_launch.py pipelines/launch/test_luigid.py pipelines/test_signals.py schemas/test_scripts_end.py
"""
"""Files of more than ten seconds, longest first: they start first, so that no worker ends on one of them alone. Before
them those that fork their process hundreds of times: while it is small, that takes half as long.
"""


def late(*values: Any, id: str | None = None) -> Any:
    """One set of parameters, for the tail alone: another of the same test shows the same fault sooner."""
    return pytest.param(*values, id=id, marks=pytest.mark.slow)
