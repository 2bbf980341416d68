"""Where the bytes of a shard come from: a local file, an HTTP server, or any other store that fsspec knows.

HTTP is read with Python's own library: fsspec's needs one package more and begins again where a connection breaks.
"""

import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from senet.errors import HubError, MissingFileError, SenetError, first_line
from senet.files import parse_json
from senet.shards.patterns import is_address, joined, path_of, shown

CHUNK = 2**20
TIMEOUT = 30
"""Seconds without a byte after which a connection counts as broken."""
Result = TypeVar("Result")
TRIES = 6
"""How often a connection may break without a byte before it is given up."""
DELAY = 0.5
"""Seconds before the second try; each further wait is twice as long."""
MISSING = (403, 404, 410)
"""What servers answer for a file that is not there; object stores say 403 where files may not be listed."""
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""What servers answer that is worth trying again (RFC 9110, RFC 6585, RFC 8470)."""
MOST_TEXT = 2**30
"""Most bytes of an index."""


class BrokenError(Exception):
    """The connection broke or the server is busy: worth trying again."""


def persistently(name: str, action: Callable[[], Result]) -> Result:
    """Do something that a broken connection may end, again and again with longer waits.

    Args:
        name: of the file, for the message.
        action: raises BrokenError; one with a true second argument has made some progress.

    Raises:
        HubError: it broke `TRIES` times without progress.
    """
    failed = 0
    while True:
        try:
            return action()
        except BrokenError as error:
            failed = 1 if len(error.args) > 1 and error.args[1] else failed + 1
            if failed >= TRIES:
                raise HubError(
                    f"{shown(name)} cannot be read ({error.args[0]}, {failed} times in a row); check the network, "
                    "then go on with the same command"
                ) from error
            time.sleep(DELAY * 2 ** (failed - 1))


class Stream(NamedTuple):
    """Bytes from a place of a file on.

    Args:
        start: the place, which is 0 where the server cannot begin later.
        size: of the whole file; None if it is not known.
        chunks: yields the bytes; raises BrokenError.
        stamp: what changes when the file is replaced, its tag or the time; "" where nothing is said.
    """

    start: int
    size: int | None
    chunks: Iterator[bytes]
    stamp: str = ""


def is_http(name: str) -> bool:
    """Return whether a name is an address on an HTTP server."""
    return name.lower().startswith(("http://", "https://"))


@contextmanager
def opened(name: str, start: int = 0, version: str = "") -> Iterator[tuple[Stream, str]]:
    """Open a shard from a place on; yield its bytes, and what tells this version of the file from others, or "".

    Args:
        name: path or address.
        start: where to begin, in bytes.
        version: the file is read from 0 if it is not of this version any more.

    Raises:
        BrokenError: it is worth trying again.
        SenetError: it is not.
    """
    with opened_http(name, start, version) if is_http(name) else opened_file(name, start) as found:
        yield found


@contextmanager
def opened_http(name: str, start: int, version: str) -> Iterator[tuple[Stream, str]]:
    """Open a file on an HTTP server, see `opened`.

    Source: ranges, If-Range and Content-Range as in RFC 9110, sections 13.1.5 and 14.
    """
    headers = {"User-Agent": "senet", "Accept-Encoding": "identity"}
    parts = urlsplit(name)
    user, _, server = parts.netloc.rpartition("@")
    if user:  # urllib takes it for a part of the server's name
        headers["Authorization"] = f"Basic {b64encode(unquote(user).encode()).decode()}"
    address = urlunsplit(parts._replace(netloc=server))
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": version} if version else {})
    try:
        response = urlopen(Request(address, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the file is shorter than what is here already
            raise BrokenError("the server has fewer bytes") from error
        if error.code in AGAIN:
            raise BrokenError(f"the server answers {error.code}") from error
        kind = MissingFileError if error.code in MISSING else HubError
        raise kind(f"{shown(name)} cannot be read (the server answers {error.code}); check the address") from error
    except (URLError, HTTPException, OSError) as error:
        raise BrokenError(first_line(error)) from error
    except ValueError as error:
        raise SenetError(f"{shown(name)} is no address ({first_line(error)}); check it") from error
    with response:
        said = {name: response.headers.get(name, "") for name in ("Content-Length", "ETag", "Last-Modified")}
        begins, size = 0, int(said["Content-Length"]) if said["Content-Length"].isdigit() else None
        if response.status == 206:
            part = re.match(r"bytes (\d+)-\d+/(\d+)?", response.headers.get("Content-Range", ""))
            if part is None or int(part[1]) != start:
                raise BrokenError("the server sends another part of it than it was asked for")
            begins, size = start, int(part[2]) if part[2] else None if size is None else start + size
        version = "" if said["ETag"].startswith("W/") else said["ETag"]
        yield Stream(begins, size, chunks_of(response), said["ETag"] or said["Last-Modified"]), version


def stamp_of(name: str) -> str:
    """Return what changes when a file of a server or store is replaced, its size and its tag or time; "" if unknown.

    Raises:
        BrokenError: it cannot be reached now.
        SenetError: the file is not there, or may not be read.
    """
    if is_http(name):
        with opened_http(name, 0, "") as (stream, _):  # a GET, for a signed address allows nothing else
            return " ".join(map(str, filter(None, (stream.size, stream.stamp))))
    system, path = file_system(name)
    with asking(name):
        size = system.size(path)
        try:
            return f"{size} {system.modified(path)}"
        except NotImplementedError:
            return str(size or "")


@contextmanager
def opened_file(name: str, start: int) -> Iterator[tuple[Stream, str]]:
    """Open a local file, or one of a store that fsspec knows, see `opened`."""
    if not is_address(name):
        with open_local(name) as file:
            file.seek(start)
            yield Stream(start, Path(name).stat().st_size, chunks_of(file)), ""
        return
    system, path = file_system(name)
    with asking(name):
        size = system.size(path)
        file = system.open(path, "rb", block_size=4 * CHUNK)
    with file:
        if start:
            file.seek(start)
        yield Stream(start, size, chunks_of(file)), ""


def open_local(name: str) -> BinaryIO:
    """Open a local file, which the caller closes.

    Raises:
        SenetError: it cannot be read.
    """
    try:
        return Path(name).open("rb")
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no shard {name}; check the path, or restore it") from error
    except OSError as error:
        raise SenetError(f"the shard {name} cannot be read ({error.strerror})") from error


def chunks_of(file: Any) -> Iterator[bytes]:
    """Yield the rest of an open file.

    Raises:
        BrokenError: it cannot be read on.
    """
    while True:
        try:
            chunk = file.read(CHUNK)
        except Exception as error:  # each store has errors of its own
            raise BrokenError(first_line(error)) from error
        if not chunk:
            return
        yield chunk


def file_system(name: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        SenetError: fsspec knows none, or lacks the package for it.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(name)
    except ImportError as error:
        raise SenetError(f"{shown(name)} needs a package more ({first_line(error)}); install it with pip") from error
    except Exception as error:  # each store has errors of its own
        raise SenetError(f"{shown(name)} cannot be opened ({first_line(error)}); check the address") from error
    return system, path


@contextmanager
def asking(name: str) -> Iterator[None]:
    """Turn what a store raises into one sentence, or into what is worth trying again."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no {shown(name)}; check the address") from error
    except PermissionError as error:
        raise SenetError(f"{shown(name)} may not be read ({first_line(error)}); check the credentials") from error
    except Exception as error:  # each store has errors of its own
        raise BrokenError(first_line(error)) from error


def read_text(name: str) -> bytes | None:
    """Return the content of a small file; None if it is not there.

    Raises:
        BrokenError: the connection broke.
        SenetError: it cannot be read, or is not small.
    """
    try:
        content = bytearray()
        with opened(name) as (stream, _):
            for chunk in stream.chunks:
                content += chunk
                if len(content) > MOST_TEXT:
                    raise SenetError(f"{shown(name)} is larger than {MOST_TEXT:,} bytes; it is no index of shards")
            if stream.size is not None and len(content) < stream.size:
                raise BrokenError(f"it ended after {len(content):,} of {stream.size:,} bytes")
    except MissingFileError:
        return None
    return bytes(content)


def listing(folder: str) -> list[str] | None:
    """Return the files in a folder and the folders in it, sorted; None where a server does not list them.

    Raises:
        SenetError: it is not there or cannot be read.
    """
    if is_http(folder):
        return None
    if not is_address(folder):
        top = Path(folder)
        return sorted(str(file) for pattern in ("[!.]*", "[!.]*/[!.]*") for file in top.glob(pattern) if file.is_file())
    system, path = file_system(folder)
    try:
        with asking(folder):
            found = system.find(path, maxdepth=2)
    except BrokenError as error:
        raise HubError(f"{shown(folder)} cannot be listed ({first_line(error)}); check the network") from error
    below = (file.removeprefix(path).lstrip("/") for file in found)
    return sorted(joined(folder, name) for name in below if not name.startswith("."))


def matching(pattern: str) -> list[str]:
    """Return the files that a pattern with * or ? stands for, sorted.

    Raises:
        SenetError: a server does not list its files.
    """
    if is_http(pattern):
        raise SenetError(f"{shown(pattern)} has *, but an HTTP server lists no files; type a range as {{000..099}}")
    system, path = file_system(pattern if is_address(pattern) else str(Path(pattern).absolute()))
    try:
        with asking(pattern):
            found = sorted(system.glob(path))
    except BrokenError as error:
        raise HubError(f"{shown(pattern)} cannot be listed ({first_line(error)}); check the network") from error
    return [system.unstrip_protocol(file) if is_address(pattern) else file for file in found]


def read_json(name: str, what: str) -> dict[str, Any]:
    """Return the value of a small JSON file; an empty one if it is not there.

    Raises:
        SenetError: it cannot be read, or is no JSON.
    """
    try:
        content = persistently(name, lambda: read_text(name))
        value = {} if content is None else parse_json(content)
        if not isinstance(value, dict):
            raise ValueError(f"it holds {type(value).__name__}")
    except SenetError:
        raise
    except ValueError as error:
        raise SenetError(f"{path_of(name)} is no {what} ({first_line(error)}); write it again") from error
    return value
