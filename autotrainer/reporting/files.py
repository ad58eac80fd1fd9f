"""Writing files: whole or not at all, by way of temporary names that nobody can predict.

New content is written to a temporary folder beside its target, which only its owner can enter, and moved into place
once it is complete and on the disk. Whatever ends the writing, also a full disk or a killed process, the old file stays
whole.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from autotrainer.config import as_path
from autotrainer.errors import InputError

__all__ = ["is_stream", "new_file", "replace_files", "write_atomic", "write_file", "writing"]

_PREFIX = ".autotrainer-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def new_file(folder: str | Path, kind: str) -> TextIO:
    """Open a new file to append lines to: ``KIND-TIME-PROCESS-NUMBER.jsonl``.

    Args:
        folder: The folder; created if missing.
        kind: Prefix of the file's name.

    Raises:
        OSError: If the folder or the file can't be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(10_000):
        with suppress(FileExistsError):
            return (folder / f"{kind}-{stamp}-{os.getpid()}-{number}.jsonl").open("x", encoding="utf-8")
    raise FileExistsError(f"no free name for a {kind} file in {folder}")


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file; an existing one is replaced only once the new one is complete, and keeps its mode and owner.

    A symbolic link is replaced, not followed, so that nobody can redirect the file by planting one; only where it leads
    to a device or pipe, as ``/dev/stdout`` does, that is written to. Other hard links keep the old content.

    Args:
        path: The file; missing folders are created.
        content: Text, written as UTF-8, or bytes.

    Returns:
        The path.

    Raises:
        InputError: If it can't be written, is read-only, or its folder is, which has to hold the temporary file.
    """
    target = as_path(path, "path")
    try:
        if is_stream(target):
            _write_stream(target, _encoded(content))
            return target
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise _input_error(target, error) from error
    with replace_files(target.parent) as stage:
        write_file(stage / target.name, content)
    return target


def write_file(path: Path, content: str | bytes) -> None:
    """Write a new file: text as UTF-8, or bytes.

    Raises:
        OSError: If it exists or can't be written.
    """
    with writing(path), path.open("xb") as file:
        file.write(_encoded(content))


@contextmanager
def replace_files(folder: str | os.PathLike[str], obsolete: Iterable[str] = ()) -> Iterator[Path]:
    """Yield an empty temporary folder; at the end, its files replace those of the same names in a folder: all or none.

    Args:
        folder: The folder; created if missing.
        obsolete: Names of files to remove from it, if they are not replaced.

    Raises:
        InputError: If a file can't be written. The folder then has its old files, as it has after any other exception.
    """
    target = as_path(folder, "folder")
    root = target
    try:
        root = target.absolute()  # whatever happens to the working directory meanwhile
        root.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(root) as stage:
            yield stage
            _move_files(stage, root, set(obsolete))
    except OSError as error:
        if _is_elsewhere(error.filename, root):  # raised by code of the user, of another file
            raise
        raise _input_error(target, error, root) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise the error of a file under its name: a full disk names none, and libraries raise a RuntimeError instead."""
    handled = sys.exception()  # by the caller
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    except RuntimeError as error:
        cause = error.__context__  # the zip writer of torch and HDF5 fail once more, when they close the file
        is_of_file = isinstance(cause, OSError) and cause.filename is None
        is_interrupt = not isinstance(cause, Exception | None)
        if cause is None or cause is handled or not (is_of_file or is_interrupt):
            raise
        if isinstance(cause, OSError):
            cause.filename = str(path)
        raise cause from None


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to something to write to, not to replace: a device, a pipe, or standard output."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)
    return is_device or _standard_descriptor(status) is not None


def _standard_descriptor(status: os.stat_result) -> int | None:
    """Return the descriptor of standard output or error if it is this file, also a regular one by redirection."""
    for descriptor in (1, 2):
        with suppress(OSError):  # it may be closed
            if os.path.samestat(status, os.fstat(descriptor)):
                return descriptor
    return None


def _write_stream(path: Path, data: bytes) -> None:
    standard = _standard_descriptor(os.stat(path))
    if standard is None:
        # A pipe without a reader is an error here, not a reason to wait.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(descriptor, True)
    else:
        descriptor = os.dup(standard)
    with open(descriptor, "wb") as stream:
        stream.write(data)


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    # Unlike that of `mkdtemp`, the name is known here before the folder exists: Ctrl-C can't leave one behind.
    folder = parent / f"{_PREFIX}{secrets.token_hex(8)}"
    try:
        folder.mkdir(0o700)
        folder.chmod(0o700)  # whatever the umask
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _move_files(stage: Path, folder: Path, obsolete: set[str]) -> None:
    """Move all files of a temporary folder to another one and remove obsolete ones there; undo all that on failure."""
    names = set(os.listdir(stage))
    for name in names:
        with writing(stage / name):
            _settle(stage / name, folder / name)
    with _temporary_folder(stage) as backup, ExitStack() as undo:
        for name in sorted(names | obsolete):
            target = folder / name
            with writing(stage / name):
                if _keep(target, backup / name):
                    undo.callback(os.replace, backup / name, target)
                else:
                    undo.callback(target.unlink, missing_ok=True)
                if name in names:
                    os.replace(stage / name, target)
                else:
                    target.unlink(missing_ok=True)
        undo.pop_all()


def _settle(file: Path, target: Path) -> None:
    """Bring a new file to the disk, with the mode and owner of the one that it replaces.

    Raises:
        OSError: If there is something that is not to be replaced: a folder, a device, a read-only file.
    """
    with suppress(PermissionError), file.open("rb") as opened:  # a umask may forbid the owner to read
        os.fsync(opened.fileno())
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return
    if stat.S_ISREG(status.st_mode):
        try:
            os.close(os.open(target, os.O_WRONLY))  # unlike `os.access`, this tells a file that was moved meanwhile
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise PermissionError("the file is read-only") from error
            if error.errno != errno.ETXTBSY:  # a program that runs can be replaced
                raise
        for owner, group in ((-1, status.st_gid), (status.st_uid, -1)):
            with suppress(OSError):  # only the administrator may give files away
                os.chown(file, owner, group)
        mode = stat.S_IMODE(status.st_mode) & 0o777
        if stat.S_IMODE(os.stat(file).st_mode) != mode:
            os.chmod(file, mode)
    elif not stat.S_ISLNK(status.st_mode):
        raise OSError("this is not a file")


def _keep(file: Path, copy: Path) -> bool:
    """Keep a file under a second name; return whether there is one."""
    try:
        os.link(file, copy, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError:  # the file system may have no links
        shutil.copy2(file, copy, follow_symlinks=False)
    return True


def _is_elsewhere(filename: object, folder: Path) -> bool:
    return isinstance(filename, str) and not (
        Path(filename).is_relative_to(folder) or folder.is_relative_to(Path(filename))
    )


def _input_error(target: Path, error: OSError, folder: Path | None = None) -> InputError:
    """Return an error that names the target, or the file in it for one in the folder or its temporary folder."""
    file = Path(error.filename) if isinstance(error.filename, str) else target
    is_temporary = file.name.startswith(_PREFIX)
    is_inside = file.parent == folder or file.parent.name.startswith(_PREFIX)
    where = target / file.name if is_inside and not is_temporary else target
    hint = "free some space or choose another path" if error.errno in _FULL else "choose a writable path"
    reason = os.strerror(error.errno) if error.errno else str(error.args[0] if error.args else "unknown error")
    return InputError(f"can't write {str(where)!r}: {' '.join(reason.split())}; {hint}")


def _encoded(content: str | bytes) -> bytes:
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
