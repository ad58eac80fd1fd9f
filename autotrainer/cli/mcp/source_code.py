"""The user's source as far as changes need it: calls, constants and where they stand. Nothing in it is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autotrainer.records.untrusted_files import read_regular

__all__ = ["Replacement", "Source", "UnclearError", "callee", "read_source"]

_LARGEST_FILE = 2**22


class UnclearError(Exception):
    """The source does not tell for certain where a change belongs; the message says why."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Text in place of what stands between two offsets; equal offsets insert it."""

    start: int
    end: int
    text: str


class Source:
    """One parsed file.

    Args:
        name: Its path, as the diff shows it.
        text: Its text, with ``\\n`` at the ends of lines.

    Raises:
        UnclearError: If it is not Python.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        try:
            self.tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UnclearError(f"{name} can't be parsed: {error}") from error
        self._lines = text.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def calls(self, *names: str) -> list[ast.Call]:
        """Return the calls of functions, classes or methods of these names."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Call) and callee(node) in names]

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        """Return where a node begins and ends in the text."""
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno or 0, node.end_col_offset or 0)

    def number(self, node: ast.expr) -> tuple[ast.expr, float]:
        """Return the constant that gives an expression its value, and the value.

        A name counts if it is assigned once, a number at the top of the file, and used nowhere else.

        Raises:
            UnclearError: If it is no number, or one that is used elsewhere, too.
        """
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node, float(node.value)  # type: ignore[arg-type]
        if not isinstance(node, ast.Name):
            raise UnclearError(f"line {node.lineno} computes the value")
        uses = [part for part in ast.walk(self.tree) if isinstance(part, ast.Name) and part.id == node.id]
        values = [
            statement.value
            for statement in self.tree.body
            if isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(statement.targets[0], ast.Name)
            and statement.targets[0].id == node.id
        ]
        if len(uses) != 2 or len(values) != 1 or isinstance(values[0], ast.Name):
            raise UnclearError(f"{node.id} is assigned elsewhere, or used in several places")
        return self.number(values[0])

    def statement_of(self, call: ast.Call) -> ast.stmt:
        """Return the statement that consists of a call alone, on lines of its own.

        Raises:
            UnclearError: If there is none.
        """
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Expr) and node.value is call:
                start, end = self.span(node)
                before = self.text[self._starts[node.lineno - 1] : start]
                after = self.text[end : self._starts[node.end_lineno or node.lineno]].strip()
                if not before.strip() and (not after or after.startswith("#")):
                    return node
        raise UnclearError(f"line {call.lineno} does more than one thing")

    def before(self, statement: ast.stmt, line: str) -> Replacement:
        """Return the insertion of a line before a statement."""
        start = self._starts[statement.lineno - 1]
        text = self._lines[statement.lineno - 1]
        return Replacement(start, start, f"{text[: len(text) - len(text.lstrip())]}{line}\n")

    def set_keyword(self, call: ast.Call, name: str, value: str, *, position: int | None = None) -> Replacement:
        """Return the change of a number or truth value among the arguments of a call, or its insertion.

        Args:
            call: The call.
            name: The keyword.
            value: The new value, as it is written.
            position: Index at which the argument may also stand without its keyword; None if it may not.

        Raises:
            UnclearError: If the value is computed, or the arguments are not all written out.
        """
        node = self.argument(call, name, position)
        if node is None:
            ends = [self.span(part)[1] for part in (*call.args, *(keyword.value for keyword in call.keywords))]
            end = max(ends, default=self.span(call)[1] - 1)
            return Replacement(end, end, f"{', ' * bool(ends)}{name}={value}")
        constant = node if isinstance(node, ast.Constant) and type(node.value) is bool else self.number(node)[0]
        return Replacement(*self.span(constant), value)

    def argument(self, call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
        """Return an argument of a call; None if it is not passed.

        Raises:
            UnclearError: If the arguments are not all written out.
        """
        if any(isinstance(node, ast.Starred) for node in call.args) or any(k.arg is None for k in call.keywords):
            raise UnclearError(f"line {call.lineno} passes arguments that are not written out")
        named = [keyword.value for keyword in call.keywords if keyword.arg == name]
        if not named and position is not None and position < len(call.args):
            return call.args[position]
        return named[0] if named else None

    def mentions(self, *words: str) -> Iterator[str]:
        """Yield the names in the source, of variables, attributes, arguments and modules, that contain one of words."""
        for node in ast.walk(self.tree):
            name = ""
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) | ast.arg(arg=name):
                    pass
                case ast.Constant(value=str(name)):
                    pass
            if any(word in name for word in words):
                yield name

    def has_key(self, name: str) -> bool:
        """Return whether a dict that is written out has this key."""
        keys = [key for node in ast.walk(self.tree) if isinstance(node, ast.Dict) for key in node.keys]
        return any(isinstance(key, ast.Constant) and key.value == name for key in keys)

    def _offset(self, line: int, column: int) -> int:
        """Return the offset of a line and a column in bytes, as `ast` counts."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode(errors="ignore"))


def callee(call: ast.Call) -> str:
    """Return the unqualified name of the called function."""
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def read_source(path: Path, name: str) -> Source:
    """Read and parse a file.

    Raises:
        UnclearError: If it can't be read, is not Python, or its text is not what it looks like.
    """
    try:
        text = read_regular(path, _LARGEST_FILE).decode("utf-8")
    except (OSError, ValueError) as error:
        raise UnclearError(f"{name} can't be read: {error}") from error
    if not name.isprintable():
        raise UnclearError(f"the name of {name} has control characters, which a diff can't hold")
    if not all(character.isprintable() or character in "\n\t" for character in text):
        raise UnclearError(f"{name} has control characters, or other ends of lines than \\n")
    return Source(name, text)
