"""TensorBoard: an event file with scalars and texts, written without TensorFlow and PyTorch."""

from __future__ import annotations

import importlib
import os
import socket
import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.config import as_path
from autotrainer.errors import ConfigError
from autotrainer.integrations._callback import require
from autotrainer.integrations.sinks._support import CopyableSink, markdown
from autotrainer.records.findings import Finding

__all__ = ["TensorBoardSink", "masked_crc32c"]

_BLOCK = 256
"""Bytes of a block of the checksum."""


class TensorBoardSink(CopyableSink):
    """Writes measurements as scalars and findings as texts that TensorBoard shows.

    ```python
    with autotrainer.watch(model, optimizer, sinks=[TensorBoardSink("runs/baseline")]):
        ...
    # then: tensorboard --logdir runs
    ```

    Args:
        log_dir: Folder of the run, which may hold event files of others, such as those of a ``SummaryWriter`` or the
            Keras callback. None: a new folder in ``runs``, named by time and host.

    Raises:
        ConfigError: If the package ``tensorboard`` is missing, or the file can't be written.
    """

    def __init__(self, log_dir: str | Path | None = None) -> None:
        require("tensorboard", "tensorboard")
        self._event: Any = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
        moment, host = time.strftime("%b%d_%H-%M-%S"), socket.gethostname()
        self._folder = Path("runs", f"{moment}_{host}") if log_dir is None else as_path(log_dir, "log_dir")
        self._open()

    def _open(self) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        path = self._folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=0)  # nothing is ever left in a buffer, which a fork would double
        except OSError as error:
            raise ConfigError(f"{str(self._folder)!r} can't be written ({error}): choose another folder") from error
        self._write(file_version="brain.Event:2")

    def reopen(self) -> None:
        """Begin another file in the same folder, if a training has closed this sink before."""
        if self._file.closed:
            self._open()

    def scalars(self, step: int, mapping: Mapping[str, float], /) -> None:
        """Write the measurements of a step."""
        self._write(step, [{"tag": name, "simple_value": value} for name, value in mapping.items()])

    def finding(self, finding: Finding, /) -> None:
        """Write a finding as text, into the curve of texts of its problem."""
        text = markdown(finding).encode("utf-8", "backslashreplace")
        tensor = {"dtype": "DT_STRING", "string_val": [text], "tensor_shape": {"dim": [{"size": 1}]}}
        metadata = {"plugin_data": {"plugin_name": "text"}}
        tag = f"autotrainer/{finding.problem}/text_summary"
        self._write(finding.step, [{"tag": tag, "metadata": metadata, "tensor": tensor}])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, step: int = 0, values: list[dict[str, Any]] | None = None, **fields: Any) -> None:
        """Write one event, in the record format of TensorFlow."""
        if values is not None:
            fields["summary"] = {"value": values}
        data = self._event(wall_time=time.time(), step=step, **fields).SerializeToString()
        size = struct.pack("<Q", len(data))
        self._file.write(size + _checksum(size) + data + _checksum(data))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of the record format of TensorFlow: CRC-32C, rotated by 15 bits, plus a constant.

    TensorBoard computes it byte by byte in Python, which would take time from the training. Here all bytes of a block
    are looked up at once, as a CRC is the sum, over GF(2), of what each byte contributes.

    Args:
        data: At least 4 bytes.
    """
    contributions, shift = _tables()
    padded = np.zeros((-(-len(data) // _BLOCK), _BLOCK), np.uint8)  # zeros in front contribute nothing
    flat = padded.reshape(-1)
    flat[flat.size - len(data) :] = np.frombuffer(data, np.uint8)
    flat[flat.size - len(data) : flat.size - len(data) + 4] ^= 0xFF  # the register begins with ones
    crc = 0
    for block in np.bitwise_xor.reduce(contributions[np.arange(_BLOCK), padded], axis=1).tolist():
        a, b, c, d = crc & 255, crc >> 8 & 255, crc >> 16 & 255, crc >> 24
        crc = block ^ shift[0][a] ^ shift[1][b] ^ shift[2][c] ^ shift[3][d]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _tables() -> tuple[NDArray[np.uint32], list[list[int]]]:
    """Return the contribution to the CRC of each byte at each place of a block, and that of a CRC before a block."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    contributions = np.empty((_BLOCK, 256), np.uint32)
    contributions[-1] = table
    shift = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    for place in range(_BLOCK - 1, -1, -1):
        shift = table[shift & 255] ^ shift >> 8
        if place:
            contributions[place - 1] = table[contributions[place] & 255] ^ contributions[place] >> 8
    return contributions, shift.tolist()
