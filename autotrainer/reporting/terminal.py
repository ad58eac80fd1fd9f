"""Terminal output: escaped text, tables, and imports that print nothing."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

__all__ = ["clean", "import_quietly", "print_table"]


def clean(text: str) -> str:
    """Escape control characters, so that no name can control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: styled on a terminal, in aligned plain columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, header_style="bold")
        for row in rows:
            table.add_row(*(Text(clean(cell)) for cell in row))
        Console().print(table)  # honours NO_COLOR
        return
    cells = [list(columns), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def import_quietly(module: str) -> None:
    """Import a module and discard what its libraries print on stderr while loading.

    TensorFlow prints there whatever ``TF_CPP_MIN_LOG_LEVEL`` is, and an input error should be a single line.

    Raises:
        ImportError: If the module can't be imported.
    """
    with suppress(Exception):  # None, closed or full
        sys.stderr.flush()
    try:
        saved_stderr = os.dup(2)
    except OSError:  # closed: nothing can be printed there
        importlib.import_module(module)
        return
    try:
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        importlib.import_module(module)
    finally:
        os.dup2(saved_stderr, 2)
        os.close(saved_stderr)
