"""Operations that make a model write. Re-exports are the registry: one line per operation."""

from __future__ import annotations

from datakit.generate.complete import Complete as Complete
from datakit.generate.converse import Converse as Converse
from datakit.generate.image import Image as Image
