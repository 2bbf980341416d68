"""One judge for all cases: how a command may end, what it must say, and whether what it gave is right."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from senet.cli import main
from senet.errors import warn
from senet.terminal import printable

STATUSES = (0, 1, 2, 128 + 2, 128 + 13, 128 + 15)
"""Done; done but for the inputs that are listed; bad input; stopped by a signal."""
RAW = re.compile(
    r"Traceback|\[Errno|\w+(?:Error|Exception)\(|<_io\.|<class '| object at 0x|invalid literal|could not convert"
)
"""What only a programmer reads."""
HELP = "For full helptext, "
"""How tyro ends what it says about arguments that it cannot read."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command and what must come of it.

    Args:
        about: what is special, in a few words.
        argv: of `senet`, run in the case's folder.
        names: a refusal names one of these files, arguments or keys.
        expected: "done", "refused", or "either" where both would be right.
        wanted: each is in the output, or named in what is said beside it.
        check: (standard output, standard error) -> what is wrong, empty if nothing is; asked where there is a result.
    """

    about: str
    argv: list[str]
    names: tuple[str, ...]
    expected: Literal["done", "refused", "either"] = "either"
    wanted: tuple[str, ...] = ()
    check: Callable[[str, str], str] | None = None


def judge(case: Case, folder: Path, *, in_process: bool = True) -> str:
    """Run a case and say what is wrong in one line, empty if nothing is."""
    try:
        status, out, err = (run_here if in_process else run_apart)(case.argv, folder)
    except BaseException as error:  # whatever leaves a command is a finding
        return one_line(f"{type(error).__name__} left the command: {error}")
    return one_line(wrong_of(case, status, out, err))


def wrong_of(case: Case, status: int, out: str, err: str) -> str:
    """Say what is wrong with an ending, empty if nothing is."""
    sentences = [line for line in err.splitlines() if line.startswith("senet: ") or HELP in line]
    ours = "\n".join(line for line in err.splitlines() if line.startswith(("senet: ", "  ", "Traceback")))
    missing = [name for name in case.wanted if not mentions(out + err, name)]
    if status not in STATUSES:
        return f"exit status {status}"
    if RAW.search(ours):
        return f"says what only a programmer reads: {RAW.search(ours)[0]!r} in {err.strip()[-300:]!r}"
    if missing and status != 2:
        return f"{missing[0]!r} is neither in the output nor named"
    if status == 0 and case.expected == "refused":
        return f"accepted: {out.strip()[:200]!r}"
    if status == 2 and len(sentences) != 1:
        return f"refused with {len(sentences)} sentences: {err.strip()[-300:]!r}"
    if status in (1, 2) and not any(mentions(err, name) for name in case.names):
        return f"names none of {case.names}: {err.strip()[-300:]!r}"
    if status and case.expected == "done":
        return f"refused: {err.strip()[-300:]!r}"
    return case.check(out, err) if case.check and status in (0, 1) else ""


def mentions(text: str, name: str) -> bool:
    """Say whether a name is in a text, as it is or with the escapes of a terminal, of JSON or of Python."""
    return any(form in text for form in (name, printable(name), json.dumps(name)[1:-1], repr(name)[1:-1]))


def run_here(argv: list[str], folder: Path) -> tuple[int, str, str]:
    """Run a command in this process; return exit status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warning_plainly():
        status = main(argv)
    return status, out.getvalue(), err.getvalue()


def run_apart(argv: list[str], folder: Path) -> tuple[int, str, str]:
    """Run a command in a process of its own."""
    paths = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, "-m", "senet", *argv],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": paths},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@contextlib.contextmanager
def warning_plainly() -> Iterator[None]:
    """Let each warning be a line on standard error, whatever was warned of before."""
    warn.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
        yield


def one_line(text: str) -> str:
    """Return a text in one line of at most 500 letters."""
    return printable(" ".join(text.split()))[:500]
