"""Instructions that a rule can check, a group of IFEval's a file; INSTRUCTIONS has them by their ids."""

from __future__ import annotations

from datakit.instructions import case, content, ends, keywords, language, layout, length
from datakit.instructions.check import Instruction as Instruction

INSTRUCTIONS: dict[str, Instruction] = {
    one.name: one
    for group in (
        keywords.KEYWORDS,
        length.LENGTH,
        content.CONTENT,
        layout.LAYOUT,
        ends.ENDS,
        case.CASE,
        language.LANGUAGE,
    )
    for one in group
}
"""Id ("keywords:existence") to instruction."""
