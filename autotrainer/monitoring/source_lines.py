"""Locates layer definitions and calls in the user's source files, as ``train.py:12``, by parsing the text."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = [
    "ModulePart",
    "activation_line",
    "calling_file",
    "calling_line",
    "constructor_line",
    "keyword_line",
    "layer_line",
    "method_line",
]

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


def constructor_line(file: str, name: str) -> str:
    """Return file and line of the only call of a class, or of a function, in a file; empty if there are several."""
    calls = [call for call in _calls(file) if _callee(call) == name] if file else []
    return _place(file, calls[0].lineno) if len(calls) == 1 else ""


def method_line(file: str, name: str) -> str:
    """Return file and line of the only call of a method without arguments in a file; empty if there are several."""
    calls = _calls(file) if file else []
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == name]
    return _place(file, lines[0]) if len(lines) == 1 else ""


def activation_line(name: str, kinds: Iterable[type], method: str, loss: str) -> str:
    """Return file and line where an activation is applied by a call, rather than by a layer.

    Calls next to that of the loss come first, then those in the models, the outermost first.

    Args:
        name: Name of the activation: ``softmax``.
        kinds: Classes of the models, the outermost first.
        method: Name of their method that computes the output.
        loss: File and line of the call of the loss; empty if unknown.

    Returns:
        The place; empty if there is no such call, or if several calls of one function may be meant.
    """
    for file, function, sinks in (*_functions_at(loss), *_methods(kinds, method)):
        for calls in _sources(function, sinks):
            lines = {call.lineno for call in calls if _applies(call, name)}
            if lines:
                return _place(file, lines.pop()) if len(lines) == 1 else ""
    return ""


def _sources(function: ast.AST, sinks: Sequence[ast.AST]) -> Iterator[list[ast.Call]]:
    """Yield the calls within nodes of a function, then those whose results these nodes use by name, and so on."""
    assignments, used = list(_assignments(function)), set[str]()
    nodes = list(sinks)
    while nodes:
        inner = [part for node in nodes for part in ast.walk(node)]
        yield [part for part in inner if isinstance(part, ast.Call)]
        names = {part.id for part in inner if isinstance(part, ast.Name)} - used
        used |= names
        nodes = [
            value
            for target, value in assignments
            if names & {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        ]


def _applies(call: ast.Call, name: str) -> bool:
    """Return whether a call applies an activation: ``softmax(x)``, ``x.softmax()``, ``Softmax()(x)``."""
    inner = call.func
    made = _callee(inner) if isinstance(inner, ast.Call) else ""
    return _callee(call).rstrip("_") == name or made.lower() == name.replace("_", "")


def _functions_at(place: str) -> Iterable[tuple[str, ast.AST, Sequence[ast.AST]]]:
    """Return the innermost function around a call, or the module, with the calls in that line."""
    file, _, line = place.rpartition(":")
    if not line.isdecimal():
        return []
    tree = _tree(file)
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    around = [node for node in scopes if node.lineno <= int(line) <= (node.end_lineno or node.lineno)]
    function = max(around, key=lambda node: node.lineno) if around else tree
    calls = [call for call in _calls(file) if call.lineno <= int(line) <= (call.end_lineno or call.lineno)]
    return [(file, function, calls)]


def _methods(kinds: Iterable[type], method: str) -> Iterable[tuple[str, ast.AST, Sequence[ast.AST]]]:
    """Yield the methods of a name in the user's classes, with what they return."""
    for kind in dict.fromkeys(base for each in kinds for base in each.__mro__):
        try:
            file = inspect.getsourcefile(kind) or ""
        except (TypeError, OSError):  # built-in, or defined in a session without a file
            continue
        if not _is_user_file(file):
            continue
        classes = [n for n in ast.walk(_tree(file)) if isinstance(n, ast.ClassDef) and n.name == kind.__name__]
        for part in (part for node in classes for part in node.body):
            if isinstance(part, ast.FunctionDef) and part.name == method:
                yield file, part, [node for node in ast.walk(part) if isinstance(node, ast.Return)]


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
