"""Copies from a real server that breaks, lies and vanishes."""

import errno
import hashlib
import os
import random

import pytest

from faulty_server import serving
from senet.errors import HubError, MissingFileError, SenetError
from senet.shards import sources, transfer
from senet.shards.cache import ShardCache
from senet.shards.transfer import Wanted

CONTENT = random.Random(0).randbytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(sources, "DELAY", 0.001)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.tar").write_bytes(CONTENT)
    with serving(folder) as found:
        yield found


def cache(tmp_path, limit=10**8):
    return ShardCache(folder=tmp_path / "cache", limit=limit)


def wanted(server, name="a.tar", digest=DIGEST, size=3_000_000):
    return Wanted(name=f"{server.address}/{name}", size=size, sha256=digest)


def left(tmp_path):
    return sorted(file.suffix for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_goes_on_where_it_broke(tmp_path, server, known, ranges):
    server.cut_after, server.cuts, server.ranges = 1_200_000, 2, ranges
    what = wanted(server) if known else Wanted(name=f"{server.address}/a.tar")
    assert cache(tmp_path).fetch(what).read_bytes() == CONTENT
    assert left(tmp_path) == [".shard"]
    if ranges:
        assert server.sent == len(CONTENT)  # nothing came twice
        assert [said for _, said in server.requests] == ["", "bytes=1200000-", "bytes=2400000-"]
    cache(tmp_path).fetch(what)
    assert len(server.requests) == 3  # a complete copy is not asked for again


@pytest.mark.parametrize("ranges", [True, False])
def test_an_answer_without_a_length_that_is_cut_goes_on_too(tmp_path, server, ranges):
    server.cut_after, server.cuts, server.lengths, server.ranges = 1_600_000, 1, False, ranges
    assert cache(tmp_path).fetch(wanted(server)).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_another_part_than_was_asked_for_is_not_taken(tmp_path, server):
    server.cut_after, server.cuts, server.shift = 1_000_000, 1, 500
    with pytest.raises(HubError, match=r"the server sends another part of it than it was asked for, 6 times in a row"):
        cache(tmp_path).fetch(wanted(server))
    server.shift = 0
    assert cache(tmp_path).fetch(wanted(server)).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(tmp_path, server):
    server.busy = 3
    assert cache(tmp_path).fetch(wanted(server)).read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_given_up_in_a_sentence_and_what_came_is_kept(tmp_path, server):
    server.cut_after, server.cuts = 1_000_000, 1

    class BusyAfterTheFirst(list):
        def append(self, request):
            server.busy = len(self)  # the first answer is cut, all others are 503
            super().append(request)

    server.requests = BusyAfterTheFirst()
    with pytest.raises(HubError, match=r"a.tar cannot be read \(the server answers 503, 6 times in a row\); check"):
        cache(tmp_path).fetch(wanted(server))
    assert left(tmp_path) == [".part"]
    server.requests, server.busy = [], 0
    assert cache(tmp_path).fetch(wanted(server)).read_bytes() == CONTENT
    assert server.requests == [("/a.tar", "bytes=1000000-")]  # another process goes on with it
    assert left(tmp_path) == [".shard"]


def test_a_server_without_ranges_that_always_breaks_at_one_place_is_given_up(tmp_path, server, monkeypatch):
    """Each try brings a million bytes, and none gets any further."""
    monkeypatch.setattr("senet.shards.sources.DELAY", 0.001)
    server.cut_after, server.ranges = 1_000_000, False
    with pytest.raises(HubError, match=r"a.tar cannot be read \(.*, 6 times in a row\); check the network"):
        cache(tmp_path).fetch(wanted(server))
    assert len(server.requests) == 6


def test_a_file_that_is_replaced_while_it_comes_is_read_from_its_beginning(tmp_path, server):
    server.cut_after, server.cuts = 1_000_000, 1
    other = bytes(reversed(CONTENT))

    class ReplacingAfterTheFirst(list):
        def append(self, request):
            if self:
                (server.folder / "a.tar").write_bytes(other)
            super().append(request)

    server.requests = ReplacingAfterTheFirst()
    assert cache(tmp_path).fetch(Wanted(name=f"{server.address}/a.tar")).read_bytes() == other


def test_another_content_than_the_index_says_is_refused(tmp_path, server):
    (server.folder / "a.tar").write_bytes(bytes(len(CONTENT)))
    with pytest.raises(SenetError, match=r"a.tar has the SHA-256 \w{12}..., not \w{12}... as written; it is damaged"):
        cache(tmp_path).fetch(wanted(server))
    assert left(tmp_path) == []
    assert len(server.requests) == 2  # once more, for a connection may have damaged it


def test_a_shorter_file_than_the_index_says_is_refused(tmp_path, server):
    (server.folder / "a.tar").write_bytes(CONTENT[:1000])
    with pytest.raises(SenetError, match=r"a.tar has 1,000 bytes, and 3,000,000 according to its index"):
        cache(tmp_path).fetch(wanted(server))


def test_a_file_that_is_not_there_is_said_at_once(tmp_path, server):
    with pytest.raises(MissingFileError, match=r"none.tar cannot be read \(the server answers 404\)"):
        cache(tmp_path).fetch(wanted(server, "none.tar"))
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_said_without_the_password(tmp_path):
    with pytest.raises(HubError, match=r"^http://127.0.0.1:9/a.tar cannot be read \(.*refused.*, 6 times"):
        cache(tmp_path).fetch(Wanted(name="http://me:secret@127.0.0.1:9/a.tar?signature=1"))


def test_a_full_disk_first_costs_old_copies_then_says_so(tmp_path, server, monkeypatch):
    for name in ("b.tar", "c.tar"):
        (server.folder / name).write_bytes(CONTENT[:-1] + name[:1].encode())
    shards = cache(tmp_path)
    digest = hashlib.sha256((server.folder / "b.tar").read_bytes()).hexdigest()
    old = shards.fetch(wanted(server, "b.tar", digest))
    real, full = os.write, [True]

    def writing(handle, data):
        if full and len(data) > 1000:
            full.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    monkeypatch.setattr(transfer.os, "write", writing)
    assert shards.fetch(wanted(server)).read_bytes() == CONTENT
    assert not old.exists()
    full.extend([True] * 100)
    digest = hashlib.sha256((server.folder / "c.tar").read_bytes()).hexdigest()
    with pytest.raises(
        SenetError, match=r"cache cannot be written \(No space left on device\); make room there, or name"
    ):
        shards.fetch(wanted(server, "c.tar", digest))
    assert ".part" not in left(tmp_path)  # which would keep the disk full


def test_a_folder_that_cannot_be_written_serves_what_is_in_it(tmp_path, server, monkeypatch):
    shards = cache(tmp_path)
    shards.fetch(wanted(server))
    (server.folder / "b.tar").write_bytes(b"b")

    def refused(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("senet.shards.cache.FileLock", refused)
    monkeypatch.setattr("senet.shards.cache.os.utime", refused)
    assert shards.fetch(wanted(server)).read_bytes() == CONTENT
    with pytest.raises(
        SenetError, match=r"cannot be written \(Read-only file system\); make it writable, or name another"
    ):
        shards.fetch(wanted(server, "b.tar", hashlib.sha256(b"b").hexdigest(), 1))
