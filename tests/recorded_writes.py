"""What a program does to the files of a folder, recorded, and what a power cut at any moment would leave of them."""

import hashlib
import itertools
import os
import random
from contextlib import contextmanager
from pathlib import Path

import pytest

LOST = ""
"""Stands for the content of a file that was never synchronized."""


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


class Recorder:
    """A folder, and what of it is on the disk for certain.

    Attributes:
        events: of each (what, path, path or None); what is "fsync", "rename", "link", "unlink", "mkdir" or "rmdir".
        cuts: for each event two states of the disk after it: without anything that was not synchronized, and with all
            names, but of contents only what was synchronized. A state is a digest by path, None for a folder.
    """

    def __init__(self, root):
        self.root, self.events, self.cuts = Path(root), [], []
        self.numbers, self.counter = {}, itertools.count()  # of files, by inode: the system gives an inode twice
        self.contents, self.stored = {}, {}  # digest by number of a file as it was synchronized, content by digest
        self.entries = {}  # by folder as it was synchronized: name -> number of the file, or None for a folder
        self.renamed = {}  # by event: digests of what was renamed, as it really is
        self.synchronized(self.root)

    def is_inside(self, path):
        return self.root in (path, *path.parents)

    def note(self, what, path, other=None):
        if self.is_inside(path) or (other is not None and self.is_inside(other)):
            self.events.append((what, path, other))
            self.cuts.append((self.on_the_disk(), self.with_all_names()))

    def number_of(self, path):
        inode = path.stat().st_ino
        if inode not in self.numbers:
            self.numbers[inode] = next(self.counter)
        return self.numbers[inode]

    def forget(self, path):
        """Note that a name is going to be removed, or be another file's."""
        if path.is_file() and path.stat().st_nlink == 1:
            self.numbers.pop(path.stat().st_ino, None)

    def synchronized(self, path):
        if path.is_dir():
            self.entries[path] = {each.name: None if each.is_dir() else self.number_of(each) for each in path.iterdir()}
        elif path.is_file():
            content = path.read_bytes()
            self.contents[self.number_of(path)] = digest_of(content)
            self.stored[digest_of(content)] = content

    def moved(self, path, other):
        """Give folders their new names, with what of them was synchronized under the old ones."""
        for folder in list(self.entries):
            if path in (folder, *folder.parents):
                self.entries[other / folder.relative_to(path)] = self.entries.pop(folder)
        files = [other, *other.rglob("*")] if other.is_dir() else [other]
        self.renamed[len(self.events)] = {file: digest_of(file.read_bytes()) for file in files if file.is_file()}

    def on_the_disk(self):
        found, waiting = {}, [self.root]
        while waiting:
            folder = waiting.pop()
            for name, number in self.entries.get(folder, {}).items():
                found[folder / name] = None if number is None else self.contents.get(number, LOST)
                if number is None:
                    waiting.append(folder / name)
        return found

    def with_all_names(self):
        return {
            path: None if path.is_dir() else self.contents.get(self.number_of(path), LOST)
            for path in self.root.rglob("*")
        }

    def states_after(self, event):
        """Return what a power cut after an event may leave: no name that was not synchronized, all, or some."""
        old, new = self.cuts[event]
        dice = random.Random(event)
        chosen = {folder: dice.choice((old, new)) for folder in sorted({path.parent for path in (*old, *new)})}
        some = {path: digest for state in (old, new) for path, digest in state.items() if chosen[path.parent] is state}
        there = {
            path: digest
            for path, digest in some.items()
            if set(path.parents) - set(self.root.parents) <= {self.root, *some}
        }
        return [old, new, there]

    def write(self, state, target):
        """Write a state of the disk into a new folder, and return it."""
        target.mkdir()
        for path in sorted(state):
            place = target / path.relative_to(self.root)
            if state[path] is None:
                place.mkdir()
            else:
                place.write_bytes(self.stored.get(state[path], b""))
        return target

    def assert_in_order(self):
        """Expect that each rename comes after its file was synchronized as it is, and before its folder is.

        Returns the names that files have been given.
        """
        for number, (what, path, other) in enumerate(self.events):
            following = self.events[number + 1 :]
            if what == "rename":
                for file, digest in self.renamed[number].items():
                    on_disk = self.cuts[number][1][file]
                    assert on_disk == digest or digest == digest_of(b""), f"{file} was not synchronized as it is"
                assert following[:1] == [("fsync", other.parent, None)], f"after the rename of {other}: {following[:2]}"
            if what == "mkdir" and not path.name.startswith("."):
                assert ("fsync", path.parent, None) in following, f"the folder of {path} was not synchronized"
        return [other.name for what, _, other in self.events if what == "rename"]


@contextmanager
def recorded(root):
    """Record what this process does in a folder."""
    recorder = Recorder(root)
    real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")}

    def absolute(path, dir_fd=None):
        start = Path.cwd() if dir_fd is None else opened(dir_fd)
        return Path(os.path.normpath(start / path))

    def opened(handle):
        return Path(f"/proc/self/fd/{handle}").readlink()

    def fsync(handle):
        real["fsync"](handle)
        path = opened(handle)
        if recorder.is_inside(path):
            recorder.synchronized(path)
            recorder.note("fsync", path)

    def renaming(name):
        def call(source, target, **options):
            recorder.forget(absolute(target))
            real[name](source, target, **options)
            if recorder.is_inside(absolute(target)):
                recorder.moved(absolute(source), absolute(target))
                recorder.note("rename", absolute(source), absolute(target))

        return call

    def link(source, target, **options):
        real["link"](source, target, **options)
        recorder.note("link", absolute(source), absolute(target))

    def changing(name):
        def call(path, *args, dir_fd=None, **options):
            place = absolute(path, dir_fd)
            recorder.forget(place)
            real[name](path, *args, dir_fd=dir_fd, **options)
            recorder.note(name, place)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "link", link)
        for name in ("replace", "rename"):
            patch.setattr(os, name, renaming(name))
        for name in ("unlink", "mkdir", "rmdir"):
            patch.setattr(os, name, changing(name))
        yield recorder
