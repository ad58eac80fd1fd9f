"""Digests of models, data, functions and options that are the same in every process: they identify a `fit`."""

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
"""Private attributes that are covered: the parts of a PyTorch module."""


def digest(value: Any) -> str:
    """Return a digest that is the same in every process for a value that is built the same way.

    It covers numbers, text, arrays and tensors bit by bit; containers; functions by code, defaults and closure;
    classes by the code of their methods, unless they belong to an installed package; Keras objects by their
    configuration; other objects by their public attributes. What can't be inspected is covered by its type.
    """
    walk = _Walk()
    walk.add(value, 0)
    return walk.hash.hexdigest()


class _Walk:
    """One walk through a value; a repeated object is hashed by its position in the walk.

    The words that are hashed identify journals on disk: a change of one makes a journal that of another request.
    """

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self._visited: dict[int, tuple[int, Any]] = {}  # holds the objects, so that no id is reused

    def add(self, value: Any, depth: int) -> None:
        """Hash a value."""
        if isinstance(value, _PLAIN):
            self._hash_words(type(value).__name__, repr(value))
            return
        if id(value) in self._visited or depth > _DEPTH:
            self._hash_words("met", str(self._visited.get(id(value), (-1, None))[0]))
            return
        if not isinstance(value, tuple | frozenset | types.CodeType):  # the compiler may or may not share constants
            self._visited[id(value)] = (len(self._visited), value)
        self._add_new(value, depth + 1)

    def _hash_words(self, *words: str) -> None:
        for word in words:
            content = word.encode("utf-8", "backslashreplace")
            self.hash.update(len(content).to_bytes(8, "little") + content)

    def _add_new(self, value: Any, depth: int) -> None:
        if isinstance(value, Mapping):
            self._hash_words("mapping", str(len(value)))
            for name, entry in value.items():
                self.add(name, depth)
                self.add(entry, depth)
        elif isinstance(value, list | tuple):
            self._hash_words(type(value).__name__, str(len(value)))
            for entry in value:
                self.add(entry, depth)
        elif isinstance(value, set | frozenset):
            self._hash_words("set", *sorted(map(digest, value)))
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
            self._hash_words("module", value.__name__)
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
        self._hash_words("array", array.dtype.str, str(array.shape), str(getattr(value, "requires_grad", False)))
        self.hash.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
        return True

    def _add_function(self, value: Any, depth: int) -> None:
        self._hash_words("function", value.__qualname__)
        if not _installed(value.__module__):
            cells = [_content(cell) for cell in value.__closure__ or ()]
            self.add([value.__code__, value.__defaults__, value.__kwdefaults__, cells], depth)

    def _add_class(self, value: type, depth: int) -> None:
        self._hash_words("class", value.__qualname__)
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
            except Exception:  # noqa: BLE001 - without a configuration, its class must do
                self._hash_words("no configuration")
            return
        attributes = getattr(value, "__dict__", None)
        if attributes is None:
            self._hash_words(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)))
            return
        for name, entry in sorted(attributes.items(), key=lambda item: str(item[0])):
            if not str(name).startswith("_") or name in _PARTS:
                self._hash_words(str(name))
                self.add(entry, depth)


def _installed(module: str | None) -> bool:
    """Return whether a module belongs to Python, an installed package or autotrainer: its version implies its code."""
    if (module or "").partition(".")[0] in (*sys.stdlib_module_names, "autotrainer"):
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if file is None:
        return module not in ("__main__", None)
    return "site-packages" in file or "dist-packages" in file


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is still empty
        return None
