"""What tells one request to `fit` from another, in any process: digests of models, data, functions and options."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from autotrainer.records.data import ArrayData, StreamData, as_array

__all__ = ["digest"]

_DEPTH = 30
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
_PARTS = ("_parameters", "_buffers", "_modules")
"""Private attributes that count: what a PyTorch module is made of."""


def digest(value: Any) -> str:
    """Return what tells a value from others: the same in every process for a value that is built the same way.

    Counted are: numbers, texts, arrays and tensors to the bit; containers; functions by their code, defaults and
    what they close over; classes by the code of their methods, where they are not of an installed package; Keras
    objects by their configuration; others by their public attributes. What can't be looked into counts by its type.
    """
    walk = _Walk()
    walk.add(value, 0)
    return walk.hash.hexdigest()


class _Walk:
    """One walk through a value; what was met before counts by the place where that was."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self._met: dict[int, tuple[int, Any]] = {}  # holds what was met, so that no address is used twice

    def add(self, value: Any, depth: int) -> None:
        """Take in a value."""
        if isinstance(value, _PLAIN):
            self._say(type(value).__name__, repr(value))
            return
        if id(value) in self._met or depth > _DEPTH:
            self._say("met", str(self._met.get(id(value), (-1, None))[0]))
            return
        if not isinstance(value, tuple | frozenset | types.CodeType):  # constants: shared or not as the compiler likes
            self._met[id(value)] = (len(self._met), value)
        self._add_new(value, depth + 1)

    def _say(self, *words: str) -> None:
        for word in words:
            content = word.encode("utf-8", "backslashreplace")
            self.hash.update(len(content).to_bytes(8, "little") + content)

    def _add_new(self, value: Any, depth: int) -> None:
        if isinstance(value, Mapping):
            self._say("mapping", str(len(value)))
            for name, entry in value.items():
                self.add(name, depth)
                self.add(entry, depth)
        elif isinstance(value, list | tuple):
            self._say(type(value).__name__, str(len(value)))
            for entry in value:
                self.add(entry, depth)
        elif isinstance(value, set | frozenset):
            self._say("set", *sorted(map(digest, value)))
        elif isinstance(value, ArrayData):
            self.add([value.inputs, value.targets, value.weights], depth)
        elif isinstance(value, StreamData):
            self.add(value.source, depth)
        elif isinstance(value, functools.partial):
            self.add(["partial", value.func, value.args, value.keywords], depth)
        elif isinstance(value, types.MethodType):
            self.add(["method", value.__func__, value.__self__], depth)
        elif isinstance(value, types.FunctionType):
            self._add_function(value, depth)
        elif isinstance(value, types.CodeType):
            self.add(["code", value.co_code, value.co_consts, value.co_names], depth)
        elif isinstance(value, type):
            self._add_class(value, depth)
        elif isinstance(value, types.ModuleType):
            self._say("module", value.__name__)
        elif not self._add_array(value):
            self._add_object(value, depth)

    def _add_array(self, value: Any) -> bool:
        if not (isinstance(value, np.ndarray | np.generic) or hasattr(value, "detach") or hasattr(value, "numpy")):
            return False
        try:
            array = as_array(value)
        except Exception:  # noqa: BLE001 - lazy, symbolic or remote: an object like any other
            return False
        if array.dtype.kind == "O":
            return False
        self._say("array", array.dtype.str, str(array.shape), str(getattr(value, "requires_grad", False)))
        self.hash.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
        return True

    def _add_function(self, value: Any, depth: int) -> None:
        self._say("function", value.__qualname__)
        if not _installed(value.__module__):
            cells = [_content(cell) for cell in value.__closure__ or ()]
            self.add([value.__code__, value.__defaults__, value.__kwdefaults__, cells], depth)

    def _add_class(self, value: type, depth: int) -> None:
        self._say("class", value.__qualname__)
        if not _installed(value.__module__):
            for name, entry in sorted(vars(value).items()):
                if isinstance(entry, types.FunctionType):
                    self.add([name, entry.__code__], depth)
            for base in value.__bases__:
                self.add(base, depth)

    def _add_object(self, value: Any, depth: int) -> None:
        self.add(type(value), depth)
        config = getattr(value, "get_config", None)
        if callable(config):
            try:
                self.add(config(), depth)
            except Exception:  # noqa: BLE001 - no configuration to be had: its class is what is known
                self._say("no configuration")
            return
        attributes = getattr(value, "__dict__", None)
        if attributes is None:
            self._say(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)))
            return
        for name, entry in sorted(attributes.items(), key=lambda item: str(item[0])):
            if not str(name).startswith("_") or name in _PARTS:
                self._say(str(name))
                self.add(entry, depth)


def _installed(module: str | None) -> bool:
    """Say whether a module belongs to Python, an installed package or this one, whose version tells its code."""
    if (module or "").partition(".")[0] in (*sys.stdlib_module_names, "autotrainer"):
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if file is None:
        return module not in ("__main__", None)
    return "site-packages" in file or "dist-packages" in file


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
