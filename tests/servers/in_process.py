"""`vllm:` in a process that has vLLM: what our client makes of its answers, as one JSON object.

    build/vllm/bin/python tests/servers/in_process.py ASKED.json OUT.json SITE-PACKAGES...

Our own dependencies stand behind vLLM's, from the environment of the tests.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def main(asked: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa

    from datakit.clients import Sampling
    from pipelines.backends.engine import Loading, answer_texts
    from pipelines.backends.vllm import Vllm
    from pipelines.engines import agreement
    from pipelines.engines.client import EngineGenerator, EngineTokenModel

    longest = asked["longest"]
    engine = Vllm().load(Loading(asked["folder"], 1, longest, "fp32", 0.5, draws=True))
    try:
        compared = agreement.agreed(engine, asked["known"], "fp32", "vllm", draws=True)
        texts = answer_texts(asked["checkpoint"], longest)
        rows = pa.table({"prompt_ids": pa.array(asked["prompts"], pa.list_(pa.int32()))})
        seeds = np.array(asked["seeds"], np.uint64)
        generator = EngineGenerator(engine, texts, compared)
        answers = [
            generator.generate(rows, Sampling(**{**how, "stop": tuple(how.get("stop", ()))}), seeds).to_pylist()
            for how in asked["samplings"]
        ]
        model, given = EngineTokenModel(engine, texts), [np.array(ids, np.int64) for ids in asked["rows"]]
        ids, values = model.top_k(given, 5)
        scores = {"logprobs": model.logprobs(given).to_pylist(), "ids": ids.to_pylist(), "values": values.to_pylist()}
    finally:
        engine.close()
    return {"compared": compared, "answers": answers, **scores}


if __name__ == "__main__":
    source, out, *packages = sys.argv[1:]
    sys.path[:0] = [str(ROOT)]
    sys.path += packages
    Path(out).write_text(json.dumps(main(json.loads(Path(source).read_text()))))
