"""Importing the operations is cheap: no engine, no model library, before one is used."""

from __future__ import annotations

import subprocess
import sys

HEAVY = "torch megatron luigi polars duckdb transformers tokenizers jinja2 pandas"


def test_the_registry_imports_nothing_heavy():
    code = (
        "import sys, datakit, datakit.apply, datakit.registry, datakit.clients\n"
        f"print(*[name for name in '{HEAVY}'.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
