"""A real HTTP server with ranges, and the faults of real ones."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FaultyServer:
    """Serves the files of a folder; its attributes may be changed while it runs.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cut_after: int | None = None  # bytes of an answer, after which the connection breaks
        self.cuts = 10**9  # how often
        self.busy = 0  # answers 503 so often
        self.ranges = True
        self.tags = True  # whether answers say which version of a file they are of
        self.lengths = True  # whether answers say how long they are
        self.shift = 0  # of the part that is sent, from the one that is asked for
        self.requests: list[tuple[str, str]] = []  # path, range
        self.sent = 0
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    """Answers as the server is told to."""

    protocol_version = "HTTP/1.1"
    state: FaultyServer

    def do_GET(self) -> None:
        """Send a file or a part of it."""
        state, path = self.state, self.path.partition("?")[0]
        wanted = self.headers.get("Range", "")
        state.requests.append((path, wanted))
        file = state.folder / path.lstrip("/")
        if state.busy > 0:
            state.busy -= 1
            self.answer(503, b"", {})
        elif not file.is_file():
            self.answer(404, b"", {})
        else:
            content = file.read_bytes()
            tag = f'"{hash(content)}"' if state.tags else ""
            found = re.fullmatch(r"bytes=(\d+)-", wanted) if state.ranges else None
            if found and self.headers.get("If-Range", tag) == tag:
                start = int(found[1]) + state.shift
                if start >= len(content):
                    self.answer(416, b"", {})
                    return
                said = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}", "ETag": tag}
                self.answer(206, content[start:], said)
            else:
                self.answer(200, content, {"ETag": tag})

    def answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        """Send an answer, whose connection may break before its end."""
        self.send_response(code)
        lengths = {"Content-Length": str(len(content))} if self.state.lengths else {"Connection": "close"}
        for name, value in filter(all, {**headers, **lengths}.items()):
            self.send_header(name, value)
        self.end_headers()
        cut = self.state.cut_after
        if cut is not None and self.state.cuts > 0 and len(content) > cut:
            self.state.cuts -= 1
            content = content[:cut]
            self.close_connection = True
        self.state.sent += len(content)
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path):
    """Run a server of a folder, and yield it."""
    state = FaultyServer(folder)
    handler = type("Bound", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
