"""``autotrainer check``: check a training setup before the first step."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import ModuleType
from typing import Any

from autotrainer.api.check import check
from autotrainer.cli.common import (
    add_format,
    add_json,
    add_rule_options,
    current_folder,
    formatted,
    print_json,
    rule_options,
    status_of,
)
from autotrainer.errors import AutotrainerError, ConfigError, InputError, nearest
from autotrainer.reporting.formats.training import Training
from autotrainer.reporting.report import Report
from autotrainer.reporting.terminal import print_output

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "check"
HELP = "check a training setup before the first step: MODULE:FUNCTION returns the arguments of autotrainer.check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "target",
        metavar="MODULE:FUNCTION",
        help="function that returns a dict of check's arguments, or (model, data, …)",
    )
    add_rule_options(parser)
    output = parser.add_mutually_exclusive_group()
    add_format(output)
    add_json(output)


def run(args: argparse.Namespace) -> int:
    """Print the findings, and return the exit status."""
    options = {name: value for name, value in rule_options(args).items() if value}
    module, function = _split(args.target)
    # what the module prints is not part of the report, and what it does to the streams ends here
    with redirect_stdout(sys.stderr), redirect_stderr(sys.stderr), _modules_of_current_folder():
        returned = _import_and_call(module, function)
        with _one_line(f"the check of what {args.target} returns fails with"):
            positional, keywords = _arguments(returned, args.target)
            findings = check(*positional, **{**keywords, **options})
    if args.json:
        print_json([finding.to_dict() for finding in findings])
    elif args.format == "text":
        print_output(Report(tuple(findings)))
    else:
        file = vars(sys.modules[module]).get("__file__") if isinstance(sys.modules.get(module), ModuleType) else None
        report = Report(tuple(findings)).to_dict()
        training = Training(args.target, findings, report, file if isinstance(file, str) else "")
        print_output(formatted(args.format, [training], NAME))
    return status_of(findings, args.fail_on)


def _split(target: str) -> tuple[str, str]:
    """Return the names of module and function.

    Raises:
        ConfigError: If the target is not MODULE:FUNCTION.
    """
    module, separator, function = target.partition(":")
    if not separator or not function or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"check takes MODULE:FUNCTION, such as train:make (no path, no .py), not {target!r}")
    return module, function


@contextmanager
def _modules_of_current_folder() -> Iterator[None]:
    """Import also from the current folder; restores ``sys.path``, whatever a module does to it or to the folder."""
    path, entries = sys.path, list(sys.path)
    path.insert(0, current_folder())
    try:
        yield
    finally:
        sys.path, path[:] = path, entries


@contextmanager
def _one_line(label: str) -> Iterator[None]:
    """Turn any exception of the user's code into an error of one line, also one that would end the process.

    Raises:
        InputError: If the block raises anything but an error of autotrainer.
    """
    try:
        yield
    except (AutotrainerError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise InputError(
            f"{label} SystemExit: it must not end the process, but calls sys.exit({error.code!r})"
        ) from error
    except BaseException as error:
        try:
            message = str(error)
        except Exception:  # noqa: BLE001 - the user's class may fail at that, too
            message = "without a message"
        raise InputError(f"{label} {type(error).__name__}: {message}") from error


def _import_and_call(module_name: str, function_name: str) -> Any:
    """Import the module and call its function.

    Raises:
        ConfigError: If there is no such module or function.
        InputError: If the module or the function fails.
    """
    with _one_line(f"module {module_name} fails to import:"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
                raise ConfigError(
                    f"no module {module_name!r} in {current_folder()} or among the installed packages; give "
                    "MODULE:FUNCTION"
                ) from error
            raise InputError(f"module {module_name} fails to import ({error}): install what it needs") from error
        function = getattr(module, function_name, None)
        if not callable(function):
            functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
            raise ConfigError(
                f"module {module_name} has no function {function_name!r}: {nearest(function_name, functions)}"
            )
    with _one_line(f"{module_name}:{function_name}, called without arguments, fails with"):
        return function()


def _arguments(returned: Any, target: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split the function's return value into positional and keyword arguments of `autotrainer.check`.

    It may be a dict, (model, train_data[, loss[, optimizer]]), (model, train_data, ..., dict), or (tuple, dict).

    Raises:
        ConfigError: If it does not fit the signature.
    """
    positional: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    if isinstance(returned, Mapping):
        keywords = {str(name): value for name, value in returned.items()}
    elif _is_args_and_kwargs(returned):
        positional, keywords = returned[0], dict(returned[1])
    elif isinstance(returned, tuple):
        named = returned[2:]
        positional = returned[:2]
        if named and isinstance(named[-1], Mapping):
            keywords = {str(name): value for name, value in named[-1].items()}
            named = named[:-1]
        keywords |= dict(zip(("loss", "optimizer"), named, strict=False))
        positional += named[2:]
    else:
        raise ConfigError(
            f"{target} must return a dict of check's arguments or (model, train_data, loss, optimizer), "
            f"not {type(returned).__name__}"
        )
    try:
        inspect.signature(check).bind(*positional, **keywords)
    except TypeError as error:
        raise ConfigError(f"the return value of {target} does not fit autotrainer.check: {error}") from error
    return positional, keywords


def _is_args_and_kwargs(returned: Any) -> bool:
    if not isinstance(returned, tuple) or len(returned) != 2:
        return False
    return isinstance(returned[0], tuple) and isinstance(returned[1], Mapping)
