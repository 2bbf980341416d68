"""A small disk in memory that a test fills up or makes read-only; only root may mount one."""

import subprocess

import pytest


class Disk:
    """A file system of its own.

    Args:
        path: of the folder where it is.
        kilobytes: that it holds.
    """

    def __init__(self, path, kilobytes):
        self.path, self.mounted = path, 0
        path.mkdir()
        self.mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")

    def mount(self, *words):
        done = subprocess.run(["mount", *words, str(self.path)], capture_output=True, text=True)
        if done.returncode and not self.mounted:
            pytest.skip(f"mounting needs root: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        self.mounted += not words[1].startswith("remount")

    def grow(self, kilobytes=10**6):
        self.mount("-o", f"remount,size={kilobytes}k")

    def make_read_only(self):
        """Let nothing be opened for writing from now on; what is open stays so."""
        self.mount("--bind", str(self.path))
        self.mount("-o", "remount,bind,ro")

    def make_writable(self):
        self.unmount()

    def unmount(self):
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)
        self.mounted -= 1

    def close(self):
        while self.mounted:
            self.unmount()
