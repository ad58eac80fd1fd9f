"""MNIST from its IDX files, none of whose announced sizes is believed."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.demo.untrusted import brief
from autotrainer.errors import DataError

__all__ = ["read_mnist"]

_MAX_BYTES = 2**28
"""Maximum size of a file, unpacked: five times that of MNIST."""

_IMAGE = (28, 28)

Rows = tuple[NDArray[Any], NDArray[Any]]


def read_mnist(folder: Path) -> tuple[Rows, Rows]:
    """Read MNIST, or data in its form.

    Args:
        folder: Folder with the four IDX files (gzipped or not), or with a folder ``mnist`` that has them.

    Returns:
        Training and validation data: images of shape (rows, 28, 28), float32 in [0, 1], and class indices.

    Raises:
        DataError: If files are missing or damaged.
    """
    parts = []
    for part in ("train", "t10k"):
        images = _read_idx(folder, f"{part}-images-idx3-ubyte", _IMAGE)
        labels = _read_idx(folder, f"{part}-labels-idx1-ubyte", ())
        if len(images) != len(labels):
            raise DataError(
                f"{folder}: {part} has {len(images)} images but {len(labels)} labels: download the files again"
            )
        parts.append((images.astype(np.float32) / 255, labels.astype(np.int64)))
    return parts[0], parts[1]


def _read_idx(folder: Path, name: str, row: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes (format: yann.lecun.com/exdb/mnist), with rows of shape ``row``."""
    for path in (folder / "mnist" / f"{name}.gz", folder / "mnist" / name, folder / f"{name}.gz", folder / name):
        if not os.path.isfile(path):
            continue
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
            if len(content) > _MAX_BYTES:
                raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
            shape = _idx_shape(content)
            if shape[1:] != row or not shape[0]:
                raise ValueError(f"its shape is {shape}, not {('rows', *row)}")
            return np.frombuffer(content, np.uint8, -1, 4 + 4 * len(shape)).reshape(shape)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(f"{path} is damaged ({brief(error)}): download the file again") from error
    raise DataError(
        f"there is no {name}(.gz) in {folder} or {folder / 'mnist'}: give --data DIR with the four IDX files of MNIST"
    )


def _idx_shape(content: bytes) -> tuple[int, ...]:
    """Return the shape in the header of an IDX file.

    Raises:
        ValueError: If it is not one of unsigned bytes, or does not have the length that the header announces.
    """
    if content[:3] != b"\x00\x00\x08" or len(content) < 4:
        raise ValueError("not an IDX file of unsigned bytes")
    rank = content[3]
    header, values = content[4 : 4 + 4 * rank], len(content) - 4 - 4 * rank
    if not rank or values < 0:
        raise ValueError("it has no shape")
    shape = tuple(length for (length,) in struct.iter_unpack(">I", header))
    if math.prod(shape) != values:
        raise ValueError(f"it has {values} values, but its header announces the shape {shape}")
    return shape
