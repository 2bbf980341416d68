"""Locks by which one process at a time writes to a folder; the system releases them where a process is killed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from senet.errors import SenetError


@contextmanager
def held(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock until the block ends.

    Args:
        path: of the file that is locked; it is made, and removed at the end.
        refusal: what is said where another process holds the lock.

    Raises:
        SenetError: another process does.
        OSError: the file cannot be made.
    """
    file = acquired(path)
    if file is None:
        raise SenetError(refusal)
    with file:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file; a disk may have become read-only
                path.unlink()


def acquired(path: Path) -> IO[str] | None:
    """Return the locked file; None if another process holds it."""
    while True:
        file = path.open("a")
        if not locked(file):
            file.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its holder removed it after it was opened here, and a third process may lock a new one


def locked(file: IO[str]) -> bool:
    """Lock a file for this process until it is closed; False if another process has. Other systems lock nothing.

    The locks are POSIX's, which processes that read data do not inherit, and which a killed process loses.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # or a file system that has no locks
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
