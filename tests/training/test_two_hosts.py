"""Training across two hosts, which are network namespaces of this machine, one of which is cut off in the middle."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drivers import ENVIRONMENT
from senet.files import read_jsonl
from stopping import wait_for

pytestmark = pytest.mark.slow

DEVICE, ADDRESSES = "senet0", ("10.77.0.1", "10.77.0.2")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1"]
SLOW = """
import os, time
from senet.data.memory import MemoryLoader
batches = MemoryLoader.batches

def slow_once(loader, epoch, first=0):
    for number, batch in enumerate(batches(loader, epoch, first)):
        if (os.environ["RANK"], epoch, number, loader.augmentation is None) == ("1", 1, 2, False):
            time.sleep(13)
        yield batch

MemoryLoader.batches = slow_once
"""
"""A module for `senet --import`: the second process is slow for longer than it may be silent."""


def ip(*words: str) -> str:
    """Run Debian's `ip`."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def remove(host: str) -> None:
    """End what runs on a host, and remove it."""
    for process in ip("netns", "pids", host).split():
        with suppress(ProcessLookupError):
            os.kill(int(process), 9)
    ip("netns", "del", host)


class Hosts:
    """Two hosts with a cable between them; their addresses exist inside of the namespaces alone."""

    def __init__(self) -> None:
        self.names = [f"senet-test-{os.getpid()}-{i}" for i in range(2)]
        self.started: list[subprocess.Popen[bytes]] = []

    def build(self) -> None:
        for line in ip("netns", "list").splitlines():
            if (old := re.match(r"(senet-test-(\d+)-\d)\b", line)) and not Path("/proc", old[2]).exists():
                remove(old[1])  # of a test that was killed
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        one, other = self.names
        ip("link", "add", DEVICE, "netns", one, "type", "veth", "peer", "name", DEVICE, "netns", other)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
            ip("-n", name, "link", "set", DEVICE, "up")

    def start(self, host: int, words: Sequence[object], log: Path) -> subprocess.Popen[bytes]:
        """Start a command of senet's by torchrun on a host, as one of two machines with one process each."""
        meeting = ["--nnodes", "2", "--node-rank", str(host), "--master-addr", ADDRESSES[0], "--master-port", "29511"]
        command = ["ip", "netns", "exec", self.names[host], *TORCHRUN, *meeting, "-m", "senet", *map(str, words)]
        with log.open("w") as file:
            env = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": DEVICE}
            self.started.append(subprocess.Popen(command, stdout=file, stderr=file, env=env, cwd=log.parent))
        return self.started[-1]

    def run(self, words: Sequence[object], folder: Path, name: str) -> tuple[list[subprocess.Popen[bytes]], list[Path]]:
        """Start a command on both hosts; return what runs, and their logs."""
        logs = [folder / f"{name}{host}.log" for host in range(2)]
        return [self.start(host, words, logs[host]) for host in range(2)], logs

    def cable(self, state: str) -> None:
        """Plug in ("up") or pull ("down") the second host's cable."""
        ip("-n", self.names[1], "link", "set", DEVICE, state)

    def remove(self) -> None:
        """Remove the hosts with what still runs on them."""
        existing = ip("netns", "list")
        for name in self.names:
            if name in existing:
                remove(name)
        for each in self.started:
            each.wait(20)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if sys.platform != "linux" or shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need Linux, its package iproute2, and root")
    made = Hosts()
    try:
        try:
            made.build()
        except AssertionError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield made
    finally:
        made.remove()


def write_images(folder: Path) -> None:
    """80 small pictures of two classes to train on, 8 to evaluate on."""
    random = np.random.default_rng(0)
    for split, number in (("train", 40), ("val", 4)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def sentences(log: Path) -> list[str]:
    """Return what senet says for its failure."""
    return [line for line in log.read_text().splitlines() if line.startswith("senet: ")]


def test_a_host_that_is_cut_off_ends_the_run_which_goes_on_bit_for_bit(hosts: Hosts, tmp_path: Path) -> None:
    """A process that is slow for longer than it may be silent is waited for, and the run says that it stands still."""
    write_images(tmp_path / "images")
    (tmp_path / "slow.py").write_text(SLOW)
    words = ["train", "digits", "--data", tmp_path / "images", "--epochs", 8, "--batch-size", 4, "--compute.cpu"]
    words += ["--model.name", "cifar_se_resnet20", "--model.in-channels", 3, "--checkpoint-every", 3]
    words += ["--data.preprocessing.mean", *"000", "--data.preprocessing.std", *"111"]
    words += ["--lost-minutes", 0.15, "--stall-minutes", 0.05]

    run = tmp_path / "run"
    both, logs = hosts.run(["--import", "slow", *words, "--output", run], tmp_path, "cut")
    rows = run / "metrics.jsonl"
    wait_for(lambda: any(each.poll() for each in both) or (rows.exists() and len(read_jsonl(rows)) > 2), 300)
    assert [each.poll() for each in both] == [None, None], [log.read_text() for log in logs]
    hosts.cable("down")
    cut = time.monotonic()
    codes = [each.wait(150) for each in both]
    assert time.monotonic() - cut < 120
    assert all(codes)
    assert 2 < len(read_jsonl(rows)) < 8
    told = [sentences(log) for log in logs]
    assert [len(each) for each in told] == [1, 1], [log.read_text() for log in logs]
    assert "process 1 on " in told[0][0]
    assert "has given no sign of life for 9 s: it was killed or stopped, or its machine is off or cut off" in told[0][0]
    assert (
        f"{ADDRESSES[0]}:29511, where the processes meet, has not answered for 9 s: this machine is cut" in told[1][0]
    )
    for each in told:
        assert f"start all processes again with `senet train --resume {run}`" in each[0]
    said = logs[0].read_text()
    assert "no step for " in said
    assert "goes on, after " in said
    assert not [line for line in (said + logs[1].read_text()).splitlines() if "/senet/" in line and "File" in line]

    hosts.cable("up")
    both, logs = hosts.run(["train", "--resume", run], tmp_path, "resumed")
    whole = subprocess.run(
        [*TORCHRUN[:-1], "2", "--standalone", "-m", "senet", *map(str, words), "--output", str(tmp_path / "whole")],
        env=ENVIRONMENT,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert [each.wait(300) for each in both] == [0, 0], [log.read_text() for log in logs]
    assert whole.returncode == 0, whole.stderr
    assert len(read_jsonl(rows)) == 8
    states = [torch.load(folder / "last" / "training_state.pt") for folder in (run, tmp_path / "whole")]
    assert states[0]["position"] | {"seconds": 0} == states[1]["position"] | {"seconds": 0}
    for part in ("model", "optimizer"):
        assert_same(*(state[part] for state in states))


def assert_same(one: object, other: object) -> None:
    """Compare nested dicts and lists of tensors and numbers, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other
