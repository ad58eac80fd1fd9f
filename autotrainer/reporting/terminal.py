"""Terminal output: safe text, tables, and imports that print nothing."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from autotrainer.safe_text import safe_line, safe_text

__all__ = ["import_quietly", "print_safely", "print_table"]


def print_safely(text: object, file: TextIO | None = None) -> None:
    """Print text of one or more lines, on standard output by default; what its encoding lacks is escaped."""
    file = sys.stdout if file is None else file
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(safe_text(str(text)).encode(encoding, "backslashreplace").decode(encoding), file=file)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: styled on a terminal, in aligned plain columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, header_style="bold")
        for row in rows:
            table.add_row(*(Text(safe_line(cell)) for cell in row))
        Console().print(table)  # honours NO_COLOR
        return
    cells = [list(columns), *([safe_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print_safely("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def import_quietly(module: str) -> None:
    """Import a module and discard what its libraries print on stderr while loading.

    TensorFlow prints there whatever ``TF_CPP_MIN_LOG_LEVEL`` is, and an input error should be a single line.

    Raises:
        ImportError: If the module can't be imported.
    """
    sys.stderr.flush()
    saved_stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        importlib.import_module(module)
    finally:
        os.dup2(saved_stderr, 2)
        os.close(saved_stderr)
