"""Weights of transformers independent of a framework: pretrained ones, kept in a cache, and faults in weights.

Names are those of `pytorch_transformer.Transformer` with separate projections; kernels have shape (out, in).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import tokens

__all__ = ["PRETRAINED", "Weights", "cache_folder", "edited", "in_block", "is_part", "matching", "pretrained"]

Weights = dict[str, NDArray[Any]]

PRETRAINED: Mapping[str, Mapping[str, Any]] = {
    "encoder_pre": {"form": "encoder", "units": 32, "heads": 2, "blocks": 2, "norm": "pre", "activation": "gelu"},
    "encoder_post": {"form": "encoder", "units": 32, "heads": 4, "blocks": 3, "norm": "post", "activation": "relu"},
    "decoder_pre": {"form": "decoder", "units": 32, "heads": 2, "blocks": 2, "norm": "pre", "activation": "gelu"},
    "decoder_wide": {"form": "decoder", "units": 48, "heads": 4, "blocks": 2, "norm": "pre", "activation": "relu"},
}
"""Networks that are pretrained, by name."""

_VERSION = 1
"""To be raised where pretraining changes, so that older caches are not read."""


def cache_folder() -> Path:
    """Return the folder of pretrained weights: in the user's cache, or where ``XDG_CACHE_HOME`` says."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "autotrainer-benchmarks"


def pretrained(name: str) -> Weights:
    """Return the weights of a pretrained network (`PRETRAINED`); if no cache has them, it is pretrained: half a minute.

    Pretraining runs in PyTorch, in a process of its own, so that both frameworks start from the same weights.
    """
    settings = json.dumps([_VERSION, PRETRAINED[name], tokens.VOCABULARY, tokens.LENGTH], sort_keys=True)
    path = cache_folder() / f"{name}-{zlib.crc32(settings.encode()):08x}.npz"
    if not path.is_file():
        path = _writable(path)
    if not path.is_file():
        root = Path(__file__).parents[2]
        command = [sys.executable, "-m", "benchmarks.programs.pytorch_pretraining", name, str(path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)  # nosec B603
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


def in_block(wrong: Mapping[str, Any], name: str, index: int) -> Any:
    """Return the value of a fault in a block: ``name`` holds it for all blocks, ``name@2`` for one; None if absent."""
    return wrong.get(f"{name}@{index}", wrong.get(name))


def matching(weights: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Return the weights that a network has in the same shape: not a head for other outputs."""
    return {name: value for name, value in weights.items() if shapes.get(name) == value.shape}


def edited(weights: Weights, edits: Sequence[Mapping[str, Any]], seed: int) -> Weights:
    """Return weights with faults.

    Args:
        weights: Weights by name.
        edits: Each has ``names``, prefixes of names (``*`` stands for every block), and ``change``: ``scale`` or
            ``add`` (by ``value``), ``draw`` (new ones with standard deviation ``value``), ``shuffle`` (rows),
            ``zero_rows`` (a share ``value`` of them).
        seed: Seed of what is drawn.
    """
    draw, changed = np.random.default_rng(seed), dict(weights)
    for edit in edits:
        for name in (name for name in weights if any(is_part(name, prefix) for prefix in edit["names"])):
            changed[name] = _changed(changed[name], str(edit["change"]), float(edit["value"]), draw).astype(np.float32)
    return changed


def _changed(array: NDArray[Any], change: str, value: float, draw: np.random.Generator) -> NDArray[Any]:
    if change == "scale":
        return array * value
    if change == "add":
        return array + value
    if change == "draw":
        return draw.normal(0, value, array.shape)
    if change == "shuffle":
        return array[draw.permutation(len(array))]
    return array * (draw.random((len(array), 1)) >= value)  # zero_rows


def is_part(name: str, prefix: str) -> bool:
    """Return whether a name begins with a prefix, in whole parts; ``*`` stands for any part."""
    parts, wanted = name.split("."), prefix.split(".")
    return len(parts) >= len(wanted) and all(w in ("*", p) for p, w in zip(parts, wanted, strict=False))


def _writable(path: Path) -> Path:
    """Return the path, or one in the folder for temporary files if its folder can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError:
        folder = Path(tempfile.gettempdir()) / path.parent.name
        folder.mkdir(exist_ok=True)
        return folder / path.name
