"""``autotrainer check``: check a training setup before the first step."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

from autotrainer.api.check import check
from autotrainer.cli.common import add_json, add_rule_options, print_json, print_output, rule_options, status_of
from autotrainer.errors import AutotrainerError, ConfigError, InputError, nearest
from autotrainer.reporting.report import Report

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
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the findings, and return the exit status."""
    positional, keywords = _arguments(_call(args.target), args.target)
    options = {name: value for name, value in rule_options(args).items() if value}
    findings = check(*positional, **{**keywords, **options})
    if args.json:
        print_json([finding.to_dict() for finding in findings])
    else:
        print_output(Report(tuple(findings)))
    return status_of(findings, args.fail_on)


def _call(target: str) -> Any:
    """Import the module, also from the current folder, and call its function.

    Raises:
        ConfigError: If there is no such module or function.
        InputError: If the module or the function fails.
    """
    module_name, separator, function_name = target.partition(":")
    if not separator or not function_name or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"check takes MODULE:FUNCTION, such as train:make (no path, no .py), not {target!r}")
    sys.path.insert(0, os.getcwd())
    try:
        return _import_and_call(module_name, function_name)
    finally:
        sys.path.remove(os.getcwd())


def _import_and_call(module_name: str, function_name: str) -> Any:
    target = f"{module_name}:{function_name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise ConfigError(
                f"no module {module_name!r} in {os.getcwd()} or among the installed packages; give MODULE:FUNCTION"
            ) from error
        raise InputError(f"module {module_name} fails to import ({error}): install what it needs") from error
    except AutotrainerError:
        raise
    except Exception as error:
        raise InputError(f"module {module_name} fails to import: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"module {module_name} has no function {function_name!r}: {nearest(function_name, functions)}"
        )
    try:
        return function()
    except AutotrainerError:
        raise
    except Exception as error:
        raise InputError(f"{target}, called without arguments, fails with {type(error).__name__}: {error}") from error


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
