"""The child process that opens packed sequences in `.npy` files, which are pickles: NumPy arrays, numbers, texts and
plain containers are made of them, and nothing else.

Reads a request as `parquet_worker.py` does (path, rows per batch, memory cap, how far the file may expand) with
the processor seconds that any file may take, and writes an Arrow stream: each number list of an item as list<double>.
Exit 3 with a message on its error stream: the file is broken, or asks for something else; 4: it expands too far. Runs
by path, with NumPy and pyarrow alone.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import pickle
import re
import resource
import sys
import time
from typing import Any

_SECONDS, _RATE = 600, 1 << 20
"""Processor seconds at most; the bytes that each one is for beyond those of the request, which any file may take: a
small pickle may ask for work without end.
"""

_BATCH = 1 << 21
"""Numbers of one key in a batch, about."""


def main() -> int:
    """Answer the one request on stdin with an Arrow stream on stdout, under limits of memory and CPU time; the exit
    code.
    """
    request = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import numpy  # noqa: F401  # loaded before the time of this file begins
    import pyarrow as pa

    pa.set_cpu_count(1)
    try:
        allowed = math.ceil(time.process_time()) + request["seconds"] + os.path.getsize(request["path"]) // _RATE
        resource.setrlimit(resource.RLIMIT_CPU, (min(allowed, _SECONDS), _SECONDS))
        items = _items(request["path"])
        names = sorted(items[0]) if items else []
        schema = pa.schema([(name, pa.list_(pa.float64())) for name in names])
        expanded = _expanded(items)
        if expanded > request["most"]:
            print(expanded, file=sys.stderr)
            return 4
        step = (
            max(1, min(request["rows"], _BATCH // max(1, len(_numbers(items[0][names[0]], names[0]))))) if names else 1
        )
        with pa.ipc.new_stream(sys.stdout.buffer, schema) as writer:
            for start in range(0, len(items), step):
                rows = items[start : start + step]
                columns = {name: [] for name in names}  # type: dict[str, list[Any]]
                for row in rows:
                    if sorted(row) != names:
                        raise ValueError(f"item {start} has other keys than the first: {sorted(map(str, row))}")
                    for name in names:
                        columns[name].append(_numbers(row[name], name))
                writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema))
    except MemoryError:
        print(request["memory"], file=sys.stderr)
        return 4
    except Exception as error:
        # Whatever a crafted pickle makes its machine stumble over is a broken file, here and nowhere else.
        print(f"{type(error).__name__}: {error}"[:500], file=sys.stderr)
        return 3
    return 0


def _items(path: str) -> list[dict[str, Any]]:
    """The dictionaries in an object array of one dimension."""
    import numpy as np

    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"version {version} of the format is not read")
        shape, _, dtype = read[version](file)
        if not dtype.hasobject or len(shape) != 1:
            raise ValueError(f"an array of {dtype} and shape {shape}, not a list of items")
        array = _Restricted(file).load()
    items = array.values if isinstance(array, _Values) else array
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"no list of items, but {type(array).__name__}")
    if not all(type(key) is str for item in items for key in item):
        raise ValueError("an item with a key that is no text")
    return items


def _expanded(items: list[dict[str, Any]]) -> int:
    """Bytes of the items' numbers, counted without a look at them: many items may be one and the same list."""
    lists = (value.values if isinstance(value, _Values) else value for item in items for value in item.values())
    return 8 * sum(len(one) for one in lists if isinstance(one, list))


def _numbers(value: Any, name: str) -> list[float]:
    """A flat list of numbers."""
    values = value.values if isinstance(value, _Values) else value
    if not isinstance(values, list) or not all(type(one) in (int, float, bool) for one in values):
        raise ValueError(f"{str(name)[:40]} is no flat list of numbers")
    return list(map(float, values))


class _Kind:
    """The type of an array's elements: truth values, numbers, or objects."""

    def __init__(self, spec: str, *_: Any) -> None:
        if not isinstance(spec, str) or not re.fullmatch(r"b1|[iuf][1248]|O8?", spec):
            raise ValueError(f"elements of type {str(spec)[:40]}")
        self.spec, self.order = spec, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]
        if self.order not in ("<", ">", "|", "="):
            raise ValueError("an order of bytes that is none")


class _Values:
    """An array: `values` is a list of what it holds, or an array of numbers."""

    def __init__(self, *_: Any) -> None:
        self.values: Any = []

    def __setstate__(self, state: Any) -> None:
        import numpy as np

        _, shape, kind, _, data = state
        if len(shape) != 1 or not isinstance(kind, _Kind):
            raise ValueError(f"an array of shape {str(shape)[:40]}")
        self.values = data if kind.spec.startswith("O") else np.frombuffer(data, kind.order + kind.spec).tolist()
        if not isinstance(self.values, list) or len(self.values) != shape[0]:
            raise ValueError("an array of another length than it says")


class _Name:
    """What stands for the class `numpy.ndarray` where arrays are made; it can do nothing."""


def _scalar(kind: Any, data: Any) -> Any:
    """The one number that the bytes `data` hold, of the pickled dtype `kind`; `ValueError` for an object."""
    import numpy as np

    if not isinstance(kind, _Kind) or kind.spec.startswith("O"):
        raise ValueError("a number that is an object")
    return np.frombuffer(data, kind.order + kind.spec).tolist()[0]


def _latin(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as older protocols write them."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in {encoding}")
    return codecs.latin_1_encode(text)[0]


_NAMES = {
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _Kind,
    ("multiarray", "_reconstruct"): _Values,
    ("multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _latin,
}
"""The names that pickles of arrays hold; behind each stands something of ours, so that NumPy itself takes no part."""


class _Restricted(pickle.Unpickler):
    """An unpickler that knows those names and no other."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands behind a name."""
        short = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        if (short, name) not in _NAMES:
            raise ValueError(f"asks for {module}.{name}, which is no array, number, text or container")
        return _NAMES[short, name]


if __name__ == "__main__":
    sys.exit(main())
