"""Rows as the files of other toolkits, by name: TRL's dataset types and NeMo-Aligner's own files."""

from __future__ import annotations

from datakit.formats.exports import nemo_aligner, trl
from datakit.formats.exports.export import Export as Export
from datakit.formats.exports.export import Lines as Lines

EXPORTS: dict[str, Export] = {form.name: form for module in (trl, nemo_aligner) for form in module.FORMS}
"""Name -> exported format; of one toolkit those that say most of their rows come first."""
