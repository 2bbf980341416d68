"""The cache is bounded, whoever fills it, and its copies are complete or absent."""

import hashlib
import multiprocessing
import os
import signal
import time

import pytest

from faulty_server import serving
from senet.errors import SenetError
from senet.shards import cache as module
from senet.shards import transfer
from senet.shards.cache import ShardCache
from senet.shards.transfer import Wanted

SIZE, NUMBER = 200_000, 8


def content(number):
    return bytes([number]) * SIZE


def files(folder):
    folder.mkdir()
    for number in range(NUMBER):
        (folder / f"{number}.tar").write_bytes(content(number))


def wanted(top, number):
    return Wanted(name=f"{top}/{number}.tar", size=SIZE, sha256=hashlib.sha256(content(number)).hexdigest())


def taken(folder):
    return sum(file.stat().st_size for file in folder.iterdir())


def test_the_copies_not_used_for_the_longest_time_make_room(tmp_path):
    files(tmp_path / "far")
    shards = ShardCache(folder=tmp_path / "cache", limit=3 * SIZE)
    paths = []
    for number in range(3):
        paths.append(shards.fetch(wanted(tmp_path / "far", number)))
        os.utime(paths[-1], (number, number))
    shards.fetch(wanted(tmp_path / "far", 0))  # used again
    with paths[1].open("rb") as reading:
        shards.fetch(wanted(tmp_path / "far", 3))
        assert [path.exists() for path in paths] == [True, False, True]
        assert reading.read() == content(1)  # whoever reads it goes on
    assert taken(tmp_path / "cache") <= 3 * SIZE


def test_a_shard_larger_than_the_cache_is_refused_with_what_is_needed(tmp_path):
    files(tmp_path / "far")
    shards = ShardCache(folder=tmp_path / "cache", limit=SIZE - 1)
    with pytest.raises(SenetError, match=r"takes 0.2 MB, and the cache may hold 0.2 MB; set data.shards.cache_gb"):
        shards.fetch(wanted(tmp_path / "far", 0))


def fill(top, limit, seed, largest):
    shards = ShardCache(folder=top / "cache", limit=limit)
    for step in range(3 * NUMBER):
        number = (seed + step * (2 * seed + 1)) % NUMBER
        for _ in range(20):  # as the store does, for others may remove it before it is opened
            try:
                assert shards.fetch(wanted(top / "far", number)).read_bytes() == content(number)
                break
            except FileNotFoundError:
                continue
        with largest.get_lock():
            largest.value = max(largest.value, sum(entry.size for entry in shards.entries()))


def test_several_processes_share_a_bounded_cache(tmp_path):
    files(tmp_path / "far")
    context = multiprocessing.get_context("fork")
    largest, limit = context.Value("q", 0), 3 * SIZE
    processes = [context.Process(target=fill, args=(tmp_path, limit, seed, largest)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert 0 < largest.value <= limit
    assert not list((tmp_path / "cache").glob("*.part"))


def fetch_slowly(address, top, ready):
    def slow(file, chunk, room):
        file.write(chunk[: len(chunk) // 2])
        ready.set()
        time.sleep(60)

    transfer.write = slow
    ShardCache(folder=top / "cache", limit=10 * SIZE).fetch(wanted(address, 0))


def test_a_kill_leaves_no_half_copy_and_no_lock(tmp_path):
    files(tmp_path / "far")
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    with serving(tmp_path / "far") as server:
        process = context.Process(target=fetch_slowly, args=(server.address, tmp_path, ready))
        process.start()
        assert ready.wait(60)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        shards = ShardCache(folder=tmp_path / "cache", limit=10 * SIZE)
        assert not shards.path_of(wanted(server.address, 0)).exists()
        (part,) = (tmp_path / "cache").glob("*.part")
        assert part.stat().st_size == SIZE // 2
        assert shards.fetch(wanted(server.address, 0)).read_bytes() == content(0)
        assert server.requests[-1] == ("/0.tar", f"bytes={SIZE // 2}-")


def test_an_abandoned_copy_makes_room_and_one_in_the_making_does_not(tmp_path):
    files(tmp_path / "far")
    folder = tmp_path / "cache"
    folder.mkdir()
    ours = folder / f"{'a' * 40}.{module.host()}.{SIZE}.part"
    theirs = folder / f"{'b' * 40}.0123abcd.{SIZE}.part"
    for part in (ours, theirs):
        part.write_bytes(b"x")
    shards = ShardCache(folder=folder, limit=3 * SIZE)
    for number in range(3):
        shards.fetch(wanted(tmp_path / "far", number))
    assert not ours.exists()  # nobody holds its lock
    assert theirs.exists()  # another machine may be writing it
    os.utime(theirs, (0, 0))
    shards.fetch(wanted(tmp_path / "far", 3))
    shards.fetch(wanted(tmp_path / "far", 4))
    assert not theirs.exists()
