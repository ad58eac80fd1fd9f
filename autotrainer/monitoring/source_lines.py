"""Locates layer definitions and calls in the user's source files, as ``train.py:12``, by parsing the text."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["ModulePart", "calling_file", "calling_line", "keyword_line", "layer_line"]

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

ModulePart = tuple[Any, str, Sequence[str]]
"""One level on the path from a model to a layer: the object, the name of its part, the class names of its parts."""


def calling_line() -> str:
    """Return file and line of the user's innermost call on the stack; empty if there is none."""
    frame = _calling_frame()
    return "" if frame is None else _place(frame.f_code.co_filename, frame.f_lineno)


def calling_file() -> str:
    """Return the file of the user's innermost call on the stack; empty if there is none."""
    frame = _calling_frame()
    return "" if frame is None else frame.f_code.co_filename


def layer_line(path: Iterable[ModulePart], kind: str, name: str, count: int, file: str) -> str:
    """Return file and line where a layer, or the block that contains it, is created.

    Args:
        path: The path from the model to the layer. A part is searched as ``self.part = …`` in the class of its owner, a
            numbered part among the arguments of a call with the same number of arguments of these classes.
        kind: Name of the layer's class.
        name: Name of the layer, which a call may pass as ``name=``.
        count: Number of layers of that class in the model.
        file: File to search if no class of the user defines the layer: the one that the model came from.

    Returns:
        The place; empty if the source is ambiguous.
    """
    place, value = "", None
    for owner, part, kinds in path:
        class_file, expression = _attribute(type(owner), part)
        if expression is None and part.isdecimal():
            expression = _element(file, value, type(owner).__name__, kinds, int(part))
        elif expression is not None:
            file = class_file
        if expression is None:
            break
        place, value = _place(file, expression.lineno), expression
    if place or not file:
        return place
    calls = [call for call in _calls(file) if _callee(call) == kind]
    named = [call for call in calls if _passes(call, "name", name)]
    calls = named or (calls if count == 1 else [])
    return _place(file, calls[0].lineno) if len(calls) == 1 else ""


def keyword_line(file: str, function: str, keyword: str) -> str:
    """Return file and line of a keyword argument that exactly one call of a function in a file passes, else empty.

    Args:
        file: The file.
        function: Name of the function, without its module.
        keyword: The keyword.
    """
    values = [k.value for call in _calls(file) if _callee(call) == function for k in call.keywords if k.arg == keyword]
    return _place(file, values[0].lineno) if len(values) == 1 else ""


def _calling_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] != "autotrainer" and _is_user_file(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def _is_user_file(file: str) -> bool:
    """Return whether a file is the user's: neither installed nor generated; notebook cells are in the line cache."""
    if file.startswith("<"):
        return file in linecache.cache
    return not file.startswith(_INSTALLED) and "site-packages" not in file


def _place(file: str, line: int) -> str:
    """Return ``file:line``, relative to the current folder if the file is below it."""
    path = Path(file)
    try:
        return f"{path.relative_to(Path.cwd())}:{line}"
    except (ValueError, OSError):  # the file is elsewhere, or the current folder has been deleted
        return f"{path}:{line}"


@lru_cache(maxsize=16)
def _tree(file: str) -> ast.Module:
    """Return the parsed source of a file; empty if it can't be read or parsed."""
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):  # edited since it was imported, or not Python
        return ast.Module([], [])


def _attribute(kind: type, name: str) -> tuple[str, ast.expr | None]:
    """Return file and value of the last ``self.name = value`` in the user's class."""
    for base in kind.__mro__:
        try:
            file = inspect.getsourcefile(base) or ""
        except (TypeError, OSError):  # built-in, or defined in a session without a file
            continue
        if not _is_user_file(file):
            continue
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.ClassDef) and node.name == base.__name__:
                values = [value for target, value in _assignments(node) if _is_self(target, name)]
                if values:
                    return file, values[-1]
    return "", None


def _assignments(node: ast.AST) -> Iterable[tuple[ast.expr, ast.expr]]:
    for part in ast.walk(node):
        if isinstance(part, ast.Assign):
            yield from ((target, part.value) for target in part.targets)
        elif isinstance(part, ast.AnnAssign) and part.value is not None:
            yield part.target, part.value


def _is_self(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Attribute) and target.attr == name and isinstance(target.value, ast.Name)


def _element(file: str, value: ast.expr | None, owner: str, kinds: Sequence[str], index: int) -> ast.expr | None:
    """Return one argument of the call that creates a sequence: the given call, or the only matching one in a file."""
    calls = [value] if isinstance(value, ast.Call) else (_calls(file) if value is None and file else [])
    calls = [call for call in calls if _callee(call) == owner]
    matches = [parts for parts in map(_parts, calls) if len(parts) == len(kinds) and all(map(_fits, parts, kinds))]
    return matches[0][index] if len(matches) == 1 and index < len(kinds) else None


def _calls(file: str) -> list[ast.Call]:
    return [node for node in ast.walk(_tree(file)) if isinstance(node, ast.Call)]


def _parts(call: ast.Call) -> list[ast.expr]:
    """Return the arguments of a call, or the elements of a list as its first one; without input layers."""
    arguments = call.args or [keyword.value for keyword in call.keywords if keyword.arg == "layers"]
    parts = arguments[0].elts if len(arguments) >= 1 and isinstance(arguments[0], ast.List) else arguments
    return [part for part in parts if _callee(part) not in ("Input", "InputLayer")]


def _fits(part: ast.expr, kind: str) -> bool:
    return not isinstance(part, ast.Starred) and (not isinstance(part, ast.Call) or _callee(part) == kind)


def _callee(node: ast.expr) -> str:
    """Return the unqualified name of the called function: ``Linear`` for ``nn.Linear(…)``."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _passes(call: ast.Call, keyword: str, value: str) -> bool:
    values = [k.value for k in call.keywords if k.arg == keyword]
    return any(isinstance(v, ast.Constant) and v.value == value for v in values)
