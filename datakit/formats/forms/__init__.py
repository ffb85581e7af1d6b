"""The formats of alignment data on disk, by name: which keys a record has, which row kind it becomes, and
how.
"""

from __future__ import annotations

from datakit.formats.forms import (
    chats,
    choices,
    comparisons,
    completions,
    feedback,
    marks,
    preferences,
    prompts,
    published,
    teacher,
    trees,
)
from datakit.formats.forms.form import Built as Built
from datakit.formats.forms.form import Form as Form

FORMS: dict[str, Form] = {
    form.name: form
    for module in (
        *(prompts, completions, chats, preferences, comparisons, feedback),
        *(trees, published, teacher, marks, choices),
    )
    for form in module.FORMS
}
"""Name -> format."""
