"""Terminal output: safe text, tables, and imports that print nothing."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from typing import Any

from autotrainer.output import encodable
from autotrainer.safe_text import safe_line, safe_text

__all__ = ["drop_output", "flush_output", "import_quietly", "kept_stdout", "print_output", "print_table"]


def print_output(text: Any) -> None:
    """Print the result of a command; the reader of a pipe may stop reading at any time.

    Raises:
        OSError: If it can't be written for another reason.
    """
    try:
        print(encodable(safe_text(str(text)), sys.stdout), flush=True)
    except BrokenPipeError:
        drop_output()


def flush_output() -> Exception | None:
    """Flush standard output unless it is closed, and return the error if it can't be written."""
    if sys.stdout is None or getattr(sys.stdout, "closed", False):  # by the script of ``autotrainer run``
        return None
    try:
        sys.stdout.flush()
    except Exception as error:  # noqa: BLE001 - a script may have replaced it by anything
        return error
    return None


def drop_output() -> None:
    """Discard what is left of the output, so that flushing it at the end of the process does not fail again."""
    with suppress(Exception), open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())


@contextmanager
def kept_stdout(*, to_stderr: bool) -> Iterator[Callable[[str], None]]:
    """Keep standard output as it is, whatever the block replaces or closes.

    Args:
        to_stderr: Whether what the block prints there goes to standard error, also from C code and child processes.

    Yields:
        A function that prints text on standard output.
    """
    stdout = sys.stdout
    flush_output()
    try:
        is_process_output = stdout.fileno() == 1
        saved = os.dup(1) if is_process_output else -1
        if is_process_output and to_stderr:
            os.dup2(2, 1)
    except (OSError, ValueError, AttributeError):  # replaced by an object, or a descriptor is closed
        is_process_output, saved = False, -1
    if not is_process_output:
        with redirect_stdout(sys.stderr) if to_stderr else nullcontext():
            yield lambda text: print(encodable(safe_text(text), stdout), file=stdout, flush=True)
        return

    def write(text: str) -> None:
        with suppress(Exception):  # closed by the block
            stdout.flush()
        with suppress(BrokenPipeError), open(os.dup(saved), "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{safe_text(text)}\n")

    try:
        yield write
    finally:
        flush_output()
        if to_stderr:
            with suppress(OSError):
                os.dup2(saved, 1)
        os.close(saved)


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
        print_output("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


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
