"""A stand-in for the graphs of `torch.cuda` on the CPU: a capture records operators, a replay runs them again."""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recording(TorchDispatchMode):
    """Keeps the operators that run inside it, with the very tensors that they read and write."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        output = function(*arguments, **(options or {}))
        self.calls.append((function, arguments, options or {}, output))
        return output


class FakeGraph:
    """Replays the operators of a capture into the tensors that they wrote then."""

    def __init__(self):
        self.calls = []

    def replay(self):
        for function, arguments, options, output in self.calls:
            again = function(*arguments, **options)
            for old, new in zip(tree_leaves(output), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class FakeStream:
    """A stream that remembers what it waited for."""

    def __init__(self):
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other)


class FakeCuda:
    """Takes the place of `torch.cuda` in a module.

    Attributes:
        main: the stream that is current at first.
        captures: the stream, pool and error mode of each capture.
        capturing: whether the caller is inside a capture of its own.
        error: what a capture raises.
    """

    CUDAGraph = FakeGraph
    Stream = FakeStream

    def __init__(self):
        self.main = self.current = FakeStream()
        self.captures = []
        self.capturing = False
        self.error = None
        self.pools = 0

    def current_stream(self):
        return self.current

    def is_current_stream_capturing(self):
        return self.capturing

    def graph_pool_handle(self):
        self.pools += 1
        return ("pool", self.pools)

    @contextmanager
    def device(self, _):
        yield

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        self.captures.append((stream, pool, capture_error_mode))
        with self.stream(stream), Recording() as recording:
            yield
        if self.error is not None:
            raise self.error
        graph.calls = recording.calls


class LikeCuda:
    """The device of a model that says "cuda" and equals every other."""

    type = "cuda"

    def __eq__(self, other):
        return True

    __hash__ = None
