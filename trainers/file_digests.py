"""Digests of files from outside without reading hundreds of gigabytes: small ones whole, weights by size, header and
blocks spread evenly over them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from schemas.errors import DataError, printable

WEIGHTS = ".safetensors"
_SMALL_FILE = 64 << 20
_BLOCKS, _BLOCK_BYTES = 64, 4096


def file_digest(path: Path) -> str:
    """SHA-256 in hex of the file, or of what of it is read; `DataError` for weights that are no safetensors file."""
    return _weights_digest(path) if path.suffix == WEIGHTS else _small_digest(path)


def _small_digest(path: Path) -> str:
    size = path.stat().st_size
    if size > _SMALL_FILE:
        return f"{size} bytes"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _weights_digest(path: Path) -> str:
    """Size, header and evenly spread blocks of a safetensors file."""
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if size < 8 or header > min(size - 8, 100 << 20):
            raise DataError("bad-safetensors", f"{printable(str(path), 200)} is no safetensors file", where=str(path))
        total.update(file.read(header))
        add_blocks(total, file, size)
    return total.hexdigest()


def add_blocks(total: hashlib._Hash, file: BinaryIO, size: int) -> None:
    """Add blocks spread evenly over a file, the first and the last among them."""
    for place in range(_BLOCKS):
        file.seek(max(0, (size - _BLOCK_BYTES) * place // (_BLOCKS - 1)))
        total.update(file.read(_BLOCK_BYTES))
