"""Entry points: the function of the user's, named as MODULE:FUNCTION, that returns the arguments of a call."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from autotrainer.cli.common import current_folder
from autotrainer.errors import AutotrainerError, ConfigError, InputError, nearest

__all__ = ["call_with_entry_point", "entry_point_file", "split_entry_point"]


def call_with_entry_point(target: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Import an entry point, also from the current folder, call it, and pass what it returns to a function.

    Args:
        target: The entry point, such as ``train:make``.
        function: `autotrainer.check` or `autotrainer.fit`.
        options: Keyword arguments of the function, in place of those of the same names that are returned.

    Returns:
        What the function returns.

    Raises:
        ConfigError: If there is no such module or function, or what it returns does not fit the function's signature.
        InputError: If the module, the entry point or the function fails.
    """
    module, name = split_entry_point(target)
    with _modules_of_current_folder():
        returned = _import_and_call(module, name)
        with _one_line(f"the {function.__name__} of what {target} returns fails with"):
            positional, keywords = _arguments(returned, target, function, options)
            return function(*positional, **keywords)


def entry_point_file(target: str) -> str:
    """Return the file of an entry point that has been imported; empty if it has none."""
    module = sys.modules.get(split_entry_point(target)[0])
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return file if isinstance(file, str) else ""


def split_entry_point(target: str) -> tuple[str, str]:
    """Return the names of module and function.

    Raises:
        ConfigError: If the target is not MODULE:FUNCTION.
    """
    module, separator, function = target.partition(":")
    if not separator or not function or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"an entry point is MODULE:FUNCTION, such as train:make (no path, no .py), not {target!r}")
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


def _arguments(
    returned: Any, target: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split the return value of an entry point into positional and keyword arguments of a function.

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
            f"{target} must return a dict of {function.__name__}'s arguments or (model, train_data, loss, optimizer), "
            f"not {type(returned).__name__}"
        )
    keywords |= options
    try:
        inspect.signature(function).bind(*positional, **keywords)
    except TypeError as error:
        raise ConfigError(
            f"the return value of {target} does not fit autotrainer.{function.__name__}: {error}"
        ) from error
    return positional, keywords


def _is_args_and_kwargs(returned: Any) -> bool:
    if not isinstance(returned, tuple) or len(returned) != 2:
        return False
    return isinstance(returned[0], tuple) and isinstance(returned[1], Mapping)
