"""What a reader may not do, however damaged its input: write elsewhere, start programs, run code, take memory."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from fuzz.judge import RAW, mentions
from senet.errors import SenetError
from senet.terminal import printable, shortened

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate"),
    *(
        "shutil.rmtree",
        "shutil.move",
        "shutil.copyfile",
        "shutil.unpack_archive",
        "os.utime",
        "os.setxattr",
        "os.mkfifo",
    ),
}
NEVER = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request", "pickle.find_class"),
    *("ctypes.dlopen", "os.kill", "os.putenv", "webbrowser.open", "smtplib.connect", "ftplib.connect"),
}
LOADED = {"ctypes.dlopen"}
"""What libraries do when they are imported: no finding by itself, unless it is of the input's folder."""


class Watch:
    """What happened while an input was read.

    Args:
        folder: of the input.
        allowed: folders that may be written into.
    """

    def __init__(self, folder: Path, allowed: tuple[Path, ...]) -> None:
        self.folder = os.path.realpath(folder)
        self.allowed = tuple(os.path.realpath(each) for each in allowed)
        self.found: list[str] = []

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        """Take notice of an event of Python's audit hooks."""
        if event == "open":
            path, mode, flags = args
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITING)
            if writes and not isinstance(path, int) and not self.may_write(path):
                self.found.append(f"opened {path!r:.200} for writing")
        elif event in CHANGING:
            paths = [each for each in args[:2] if isinstance(each, str | bytes | os.PathLike)]
            self.found += [f"{event} of {path!r:.200}" for path in paths if not self.may_write(path)]
        elif event == "exec" and isinstance(args[0], CodeType):
            if self.is_of_input(args[0].co_filename):
                self.found.append(f"ran code of {args[0].co_filename}")
        elif event in NEVER and (event not in LOADED or self.is_of_input(str(args[0]))):
            self.found.append(f"{event} {args!r:.200}")

    def may_write(self, path: Any) -> bool:
        """Return whether a path is in a folder that may be written into."""
        real = os.path.realpath(os.fsdecode(path))
        return real == "/dev/null" or any(f"{real}/".startswith(f"{each}/") for each in self.allowed)

    def is_of_input(self, path: str) -> bool:
        """Return whether a path is of the input."""
        return os.path.realpath(path).startswith(f"{self.folder}/")


WATCHES: list[Watch] = []
"""At most one: audit hooks cannot be taken away."""
HOOKED: list[bool] = []


def heed(event: str, args: tuple[Any, ...]) -> None:
    """Tell the watch of an event."""
    if WATCHES:
        watch = WATCHES.pop()  # what it does itself is no finding
        try:
            watch.note(event, args)
        finally:
            WATCHES.append(watch)


@contextlib.contextmanager
def watching(folder: Path, allowed: tuple[Path, ...]) -> Iterator[Watch]:
    """Watch what happens in the block."""
    if not HOOKED:
        sys.addaudithook(heed)
        HOOKED.append(True)
    watch = Watch(folder, allowed)
    WATCHES.append(watch)
    try:
        yield watch
    finally:
        WATCHES.clear()


def memory(key: str) -> int:
    """Return the memory of this process in bytes: VmRSS now, VmHWM the most since `forget_peak`."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{key}:\s*(\d+) kB", text, re.MULTILINE)[1])


def forget_peak() -> None:
    """Begin to measure the most memory again."""
    Path("/proc/self/clear_refs").write_text("5")


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of all that is in a folder."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = f"{root}{os.sep}{name}"
            stat = os.lstat(path)
            found[path] = (stat.st_size, stat.st_mtime_ns) if name in files else (0, 0)
    return found


def executable_maps(folder: Path) -> list[str]:
    """Return the files in a folder that this process has loaded as programs."""
    lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    return [line.split(None, 5)[-1] for line in lines if str(folder) in line and "x" in line.split()[1]]


def fault_of(error: BaseException, names: tuple[str, ...]) -> str:
    """Return what is wrong with an error that a reader raised; empty if it is as documented."""
    if not isinstance(error, SenetError):
        return f"{text_of(error)} in {place_of(error)}"
    said = printable(shortened(str(error)))
    if RAW.search(said):
        return f"says what only a programmer reads: {said!r:.300} in {place_of(error)}"
    if not any(mentions(said, name) for name in names):
        return f"names no file: {said!r:.300} in {place_of(error)}"
    return ""


def text_of(error: BaseException) -> str:
    """Return an error in a line."""
    return f"{type(error).__name__}: {str(error)[:200]!r}"


def place_of(error: BaseException) -> str:
    """Return the last line of the library that an error came through."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "/senet/" in each.filename]
    if not frames:
        frames = traceback.extract_tb(error.__traceback__)[-1:]
    return f"{frames[-1].filename.rpartition('/senet/')[2]}:{frames[-1].lineno}" if frames else "?"
