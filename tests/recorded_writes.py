"""What a program does to files, recorded, and what a power cut at any moment would leave of it."""

import hashlib
import os
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

RENAMES = ("replace", "rename")


class Recorder:
    """Records the calls that change names in a folder, and what is synchronized.

    Attributes:
        events: of each (what, path, path or None); what is "fsync", "rename", "link", "unlink", "mkdir" or "rmdir".
        states: of the disk after each event, as if all that was not synchronized were lost: by what `states_after` says.
    """

    def __init__(self, root):
        self.root, self.events = Path(root), []
        self.contents = {}  # of files when they were synchronized, by inode: a digest
        self.stored = {}  # by digest
        self.entries = {}  # of folders when they were synchronized, by path: name -> inode, or None for a folder
        self.cuts = []

    def note(self, what, path, other=None):
        path = Path(os.path.abspath(os.fsdecode(path)))
        other = None if other is None else Path(os.path.abspath(os.fsdecode(other)))
        if self.root in (path, *path.parents, *(() if other is None else (other, *other.parents))):
            self.events.append((what, path, other))
            self.cuts.append((self.after_a_cut(), self.now()))

    def synchronized(self, path):
        """Note what is on the disk from now on."""
        if path.is_dir():
            self.entries[path] = self.listed(path)
        elif path.is_file():
            self.contents[path.stat().st_ino] = self.kept(path)

    def listed(self, folder):
        return {each.name: None if each.is_dir() else each.stat().st_ino for each in folder.iterdir()}

    def kept(self, path):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self.stored[digest] = content
        return digest

    def moved(self, path, other):
        """Note what follows from the rename of a folder: what lies in it was synchronized under the old name."""
        for folder in list(self.entries):
            if path in (folder, *folder.parents):
                self.entries[other / folder.relative_to(path)] = self.entries.pop(folder)

    def after_a_cut(self):
        """Return what is on the disk, by path: folders as they were synchronized, files too; None for a folder."""
        found, waiting = {}, [self.root]
        while waiting:
            folder = waiting.pop()
            for name, inode in self.entries.get(folder, {}).items():
                path = folder / name
                found[path] = None if inode is None else self.contents.get(inode, "")
                if inode is None:
                    waiting.append(path)
        return found

    def now(self):
        """Return the same if all names are on the disk, but of contents only what was synchronized."""
        found = {}
        for path in self.root.rglob("*"):
            if path.is_dir():
                found[path] = None
            elif path.is_file():
                found[path] = self.contents.get(path.stat().st_ino, "")
        return found

    def states_after(self, event):
        """Return what a power cut after an event may leave: nothing, all, or some of what was not synchronized."""
        old, new = self.cuts[event]
        mixed = random.Random(event)
        chosen = {folder: mixed.choice((old, new)) for folder in sorted({path.parent for path in (*old, *new)})}
        some = {path: digest for state in (old, new) for path, digest in state.items() if chosen[path.parent] is state}
        return [old, new, {path: digest for path, digest in some.items() if path.parent in (self.root, *some)}]

    def write(self, state, target):
        """Write a state of the disk into a new folder."""
        target.mkdir()
        for path in sorted(state):
            place = target / path.relative_to(self.root)
            if state[path] is None:
                place.mkdir()
            else:
                place.write_bytes(self.stored.get(state[path], b""))
        return target

    # ---- the order ---------------------------------------------------------------------------------------------------

    def assert_in_order(self):
        """Every rename comes after its file was synchronized as it is then, and before its folder is; folders too."""
        renames = [number for number, (what, *_) in enumerate(self.events) if what == "rename"]
        for number in renames:
            _, path, other = self.events[number]
            self.assert_on_the_disk(number, path, other)
            following = self.events[number + 1 :]
            assert ("fsync", other.parent, None) in following[:2], f"{other} is renamed; then come {following[:3]}"
        for number, (what, path, _) in enumerate(self.events):
            if what == "mkdir" and not path.name.endswith(".part"):
                assert ("fsync", path.parent, None) in self.events[number:], path
        return len(renames)

    def assert_on_the_disk(self, number, path, other):
        _, new = self.cuts[number]
        after = {place: digest for place, digest in new.items() if other in (place, *place.parents)}
        assert after, f"{path} -> {other}"
        for place, digest in after.items():
            is_empty = place.is_file() and not place.stat().st_size
            assert digest != "" or is_empty, f"{place} was not synchronized before it was renamed"
            real = self.seen.get((number, place))
            assert real == digest or digest is None, f"{place} was written to after it was synchronized"


@contextmanager
def recorded(root):
    """Record what this process does below a folder."""
    recorder = Recorder(root)
    recorder.seen = {}
    real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")}
    recorder.synchronized(recorder.root)

    def fsync(handle):
        real["fsync"](handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if recorder.root in (path, *path.parents):
            recorder.synchronized(path)
            recorder.note("fsync", path)

    def renaming(name):
        def call(source, target, **options):
            real[name](source, target, **options)
            source, target = Path(os.path.abspath(source)), Path(os.path.abspath(target))
            recorder.moved(source, target)
            recorder.note("rename", source, target)
            number = len(recorder.events) - 1
            for place in [target, *target.rglob("*")] if target.is_dir() else [target]:
                if recorder.root in place.parents and place.is_file():
                    digest = hashlib.sha256(place.read_bytes()).hexdigest()
                    recorder.seen[number, place] = digest

        return call

    def link(source, target, **options):
        real["link"](source, target, **options)
        recorder.note("link", source, target)

    def changing(name):
        def call(path, *args, **options):
            real[name](path, *args, **options)
            if not options.get("dir_fd"):
                recorder.note(name, path)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "link", link)
        for name in RENAMES:
            patch.setattr(os, name, renaming(name))
        for name in ("unlink", "mkdir", "rmdir"):
            patch.setattr(os, name, changing(name))
        yield recorder


def emptied(folder):
    """Return a path where nothing is."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder
