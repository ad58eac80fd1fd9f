"""Reading pickles of plain values without unpickling: nothing from the pickle is imported, called or constructed."""

from __future__ import annotations

import codecs
import io
import pickletools
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotrainer.demo.untrusted import MAX_BYTES, brief, plain
from autotrainer.errors import ConfigError, InputError
from autotrainer.records.untrusted_files import read_regular

__all__ = ["load_plain"]

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
"""Opcodes that push their argument."""

_LENGTHS = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

_FORMATS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_FORMATS |= {"f2": "e", "f4": "f", "f8": "d"}
"""Format of `struct` by NumPy type."""

_DTYPE = "numpy.dtype"
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


@dataclass(frozen=True)
class _Global:
    """Stands for a global that the pickle refers to."""

    name: str


@dataclass
class _NumberType:
    """Stands for a ``numpy.dtype``: a key of `_FORMATS`, and the byte order."""

    kind: str
    order: str = "="


def load_plain(path: str | Path) -> Any:
    """Read a pickle that contains only dict, list, tuple, str, numbers, None and NumPy numbers.

    Args:
        path: The file, of at most 1 MB.

    Returns:
        The value, with NumPy numbers converted to Python numbers; keys are strings.

    Raises:
        ConfigError: If it can't be read or contains anything else; names the first global that is refused.
    """
    try:
        return plain(_Interpreter(read_regular(Path(path), MAX_BYTES)).run())
    except OSError as error:
        raise ConfigError(f"can't read the configuration {path}: {error.strerror}") from error
    except Exception as error:  # damaged pickles fail in many ways, all of them without effect
        raise ConfigError(
            f"{path} is not a pickle of plain values ({brief(error)}): give a dict of strings, numbers and lists, or "
            "a .json file"
        ) from error


class _Interpreter:
    """Interprets the opcodes of a pickle; memory and time are bounded by its length, whatever numbers it contains."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the value of the pickle."""
        while True:
            code = self._file.read(1)
            if code not in _OPCODES:
                raise InputError(f"it has an invalid opcode {code!r}" if code else "it ends before its last opcode")
            opcode = _OPCODES[code]
            if opcode.name == "STOP":
                return self._stack.pop()
            if opcode.name == "STRING":
                self._stack.append(self._string())
            else:
                argument = None if opcode.arg is None else opcode.arg.reader(self._file)
                self._step(opcode.name, argument)

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
            return
        match name:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "MARK":
                self._marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._marked()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(_LENGTHS[name])))
            case "EMPTY_LIST" | "LIST":
                stack.append(self._marked() if name == "LIST" else [])
            case "APPEND" | "APPENDS":
                items = self._marked() if name == "APPENDS" else self._last(1)
                self._target(list).extend(items)
            case "EMPTY_DICT" | "DICT":
                items = self._marked() if name == "DICT" else []
                stack.append({})
                self._set(items)
            case "SETITEM" | "SETITEMS":
                self._set(self._marked() if name == "SETITEMS" else self._last(2))
            case "GLOBAL" | "STACK_GLOBAL":
                self._global(argument.split(" ") if name == "GLOBAL" else self._last(2))
            case "REDUCE":
                self._reduce(*self._last(2))
            case "BUILD":
                (state,) = self._last(1)
                self._target(_NumberType).order = state[1] if state[1] in ("<", ">") else "="
            case _:
                raise InputError(f"it uses the opcode {name}, which is not allowed")

    def _string(self) -> str:
        """Read the argument of STRING, whose reader in `pickletools` refuses bytes that Python 2 writes."""
        quoted: Any = pickletools.read_stringnl(self._file, decode=False)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # about unknown escapes, which pickle leaves as they are
            return codecs.escape_decode(quoted)[0].decode("latin-1")

    def _marked(self) -> list[Any]:
        """Remove and return the values above the last mark."""
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _last(self, number: int) -> list[Any]:
        """Remove and return the last values of the stack."""
        return [self._stack.pop() for _ in range(number)][::-1]

    def _target(self, kind: type[Any]) -> Any:
        target = self._stack[-1]
        if type(target) is not kind:
            raise InputError(f"it changes a {type(target).__name__}, which is not allowed")
        return target

    def _set(self, items: list[Any]) -> None:
        target = self._target(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                raise InputError(f"it has a key of type {type(key).__name__}, not str")
            target[key] = value

    def _global(self, parts: list[Any]) -> None:
        name = ".".join(parts)
        if name not in (_DTYPE, *_SCALARS):
            raise InputError(f"it refers to {name}, which is not allowed")
        self._stack.append(_Global(name))

    def _reduce(self, function: Any, arguments: Any) -> None:
        """Push the number type or the number that a call from NumPy's pickles stands for."""
        match function, arguments:
            case _Global(name), (str(kind), *_) if name == _DTYPE and kind in _FORMATS:
                self._stack.append(_NumberType(kind))
            case _Global(name), (_NumberType(kind, order), str() | bytes() as data) if name in _SCALARS:
                content = data.encode("latin-1") if isinstance(data, str) else data
                self._stack.append(struct.unpack(order + _FORMATS[kind], content)[0])
            case _:
                raise InputError("it makes a call other than that of a NumPy number, which is not allowed")
