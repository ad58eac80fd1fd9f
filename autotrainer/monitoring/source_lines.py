"""Where in the user's own files a layer is made or a call stands, as ``train.py:12``: read from the text alone."""

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

__all__ = ["Step", "calling_file", "calling_line", "keyword_line", "layer_line"]

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

Step = tuple[Any, str, Sequence[str]]
"""One step from a model down to a layer: the object, the name of its part, and the class names of all its parts."""


def calling_line() -> str:
    """Return the place in a user's file whose call led here; empty if there is none."""
    frame = _calling_frame()
    return "" if frame is None else _place(frame.f_code.co_filename, frame.f_lineno)


def calling_file() -> str:
    """Return the user's file whose call led here; empty if there is none."""
    frame = _calling_frame()
    return "" if frame is None else frame.f_code.co_filename


def layer_line(steps: Iterable[Step], kind: str, name: str, count: int, file: str) -> str:
    """Return the place where a layer is made, or where the block that holds it is.

    Args:
        steps: The way from the model down to it. A part is looked for as ``self.part = …`` in the class of its owner, a
            numbered part among the arguments of a call with as many arguments of such classes.
        kind: Name of the layer's class.
        name: The layer's own name, which a call may say as ``name=``.
        count: Layers of that class in the model.
        file: Where to look for what no class of the user's says: the file that the model came from.

    Returns:
        The place; empty if the text does not tell it beyond doubt.
    """
    place, value = "", None
    for owner, part, kinds in steps:
        file_of_class, found = _attribute(type(owner), part)
        if found is None and part.isdecimal():
            found = _element(file, value, type(owner).__name__, kinds, int(part))
        elif found is not None:
            file = file_of_class
        if found is None:
            break
        place, value = _place(file, found.lineno), found
    if place or not file:
        return place
    calls = [call for call in _calls(file) if _callee(call) == kind]
    named = [call for call in calls if _says(call, "name", name)]
    calls = named or (calls if count == 1 else [])
    return _place(file, calls[0].lineno) if len(calls) == 1 else ""


def keyword_line(file: str, function: str, keyword: str) -> str:
    """Return the place of a keyword argument of the only call of a function in a file; empty if there is not just one.

    Args:
        file: The file.
        function: The last name of what is called.
        keyword: The keyword.
    """
    said = [k.value for call in _calls(file) if _callee(call) == function for k in call.keywords if k.arg == keyword]
    return _place(file, said[0].lineno) if len(said) == 1 else ""


def _calling_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] != "autotrainer" and _is_own(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def _is_own(file: str) -> bool:
    """Say whether a file is the user's: neither installed nor made up (cells of a notebook are in the line cache)."""
    if file.startswith("<"):
        return file in linecache.cache
    return not file.startswith(_INSTALLED) and "site-packages" not in file


def _place(file: str, line: int) -> str:
    """Return a place as it is told: by the path from the current folder, if the file lies below it."""
    path = Path(file)
    try:
        return f"{path.relative_to(Path.cwd())}:{line}"
    except (ValueError, OSError):  # it lies elsewhere, or there is no current folder any more
        return f"{path}:{line}"


@lru_cache(maxsize=16)
def _tree(file: str) -> ast.Module:
    """Return the parsed text of a file; an empty one if it can't be had."""
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):  # edited meanwhile, or no Python
        return ast.Module([], [])


def _attribute(kind: type, name: str) -> tuple[str, ast.expr | None]:
    """Return file and value of ``self.name = value`` in a class of the user's, the last one if there are several."""
    for base in kind.__mro__:
        try:
            file = inspect.getsourcefile(base) or ""
        except (TypeError, OSError):  # built in, or typed in a session without a file
            continue
        if not _is_own(file):
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


def _element(file: str, value: ast.expr | None, owner: str, kinds: Sequence[str], place: int) -> ast.expr | None:
    """Return one argument of the call that makes a sequence: of the given value, or of the only such call in a file."""
    known = [value] if isinstance(value, ast.Call) else (_calls(file) if value is None and file else [])
    known = [call for call in known if _callee(call) == owner]
    found = [parts for parts in map(_parts, known) if len(parts) == len(kinds) and all(map(_fits, parts, kinds))]
    return found[0][place] if len(found) == 1 and place < len(kinds) else None


def _calls(file: str) -> list[ast.Call]:
    return [node for node in ast.walk(_tree(file)) if isinstance(node, ast.Call)]


def _parts(call: ast.Call) -> list[ast.expr]:
    """Return the arguments of a call, or the elements of the one list that it is given; shapes of inputs left out."""
    given = call.args or [keyword.value for keyword in call.keywords if keyword.arg == "layers"]
    parts = given[0].elts if len(given) >= 1 and isinstance(given[0], ast.List) else given
    return [part for part in parts if _callee(part) not in ("Input", "InputLayer")]


def _fits(part: ast.expr, kind: str) -> bool:
    return not isinstance(part, ast.Starred) and (not isinstance(part, ast.Call) or _callee(part) == kind)


def _callee(node: ast.expr) -> str:
    """Return the last name of what is called: ``Linear`` for ``nn.Linear(…)``."""
    called = node.func if isinstance(node, ast.Call) else None
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""


def _says(call: ast.Call, keyword: str, value: str) -> bool:
    said = [k.value for k in call.keywords if k.arg == keyword]
    return any(isinstance(v, ast.Constant) and v.value == value for v in said)
