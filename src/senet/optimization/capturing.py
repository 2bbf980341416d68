"""CUDA graphs for inference: a network's launches recorded once for each shape, then started by the GPU alone.

Each launch takes the host longer than the GPU at batch 1: SE-ResNet-50, compiled, in bfloat16 on an H100 took 3.1 ms
without a graph and 0.57 ms from one.
"""

from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, cuda

from senet.errors import SenetError, first_line, warn

Outputs = Tensor | tuple[Tensor, ...]
"""What a network returns: logits, or the maps of a feature pyramid."""
MAX_GRAPHS = 8
"""As many shapes as torch.compile compiles for before it gives up: each graph keeps its input and output."""
WARM_UP_CALLS = 3
"""Before a capture: compiling, choosing of algorithms and what libraries allocate at first cannot be captured."""


class Captured(NamedTuple):
    """A captured call.

    Args:
        graph: replays it.
        x: what it reads.
        y: what it writes.
    """

    graph: cuda.CUDAGraph
    x: Tensor
    y: Outputs


def in_float32(outputs: Outputs, *, copy: bool = False) -> Outputs:
    """Return outputs in float32, as copies if wanted."""
    if isinstance(outputs, Tensor):
        return outputs.to(torch.float32, copy=copy)
    return tuple(x.to(torch.float32, copy=copy) for x in outputs)


class GraphRunner:
    """Runs a function of feature maps on a GPU from CUDA graphs, one for each of the first shapes that come.

    Calls from several threads take turns, and calls on several streams wait for each other: the graphs share the memory
    of their intermediate values. Outputs are copies, which later calls leave alone. Within a capture of the caller's
    own, and for shapes beyond `MAX_GRAPHS`, the function runs as it is.

    Args:
        run: (N, C, H, W) channels-last -> a tensor or several; the same launches at every call with the same shape.
        device: the GPU.
        weight: one of its weights, which has the type that images must have; if it moves, graphs are captured again.
        required: raise an error where a graph cannot be captured, instead of going on without one.
    """

    def __init__(
        self, run: Callable[[Tensor], Outputs], device: torch.device, weight: Tensor, *, required: bool = False
    ) -> None:
        self.run, self.device, self.weight, self.required = run, device, weight, required
        self.captured: dict[tuple[object, ...], Captured] = {}
        self.gave_up = False
        self.lock = Lock()
        self.stream: cuda.Stream | None = None
        self.pool: Any = None

    def __call__(self, x: Tensor) -> Outputs:
        """Return the output for images (N, C, H, W) in float32."""
        if self.gave_up or x.numel() == 0 or x.device != self.device or cuda.is_current_stream_capturing():
            return in_float32(self.run(self.converted(x)))
        key = (*x.shape, self.weight.data_ptr(), torch.is_autocast_enabled(self.device.type))
        with self.lock, cuda.device(self.device):
            captured = self.captured.get(key) or self.capture(key, x)
            if captured is not None:
                return self.replay(captured, x)
        return in_float32(self.run(self.converted(x)))

    def replay(self, captured: Captured, x: Tensor) -> Outputs:
        """Run a captured call for images of its shape."""
        stream = cuda.current_stream()
        if self.stream is not None and stream != self.stream:
            stream.wait_stream(self.stream)
        self.stream = stream
        captured.x.copy_(x)  # converts type and memory format too
        captured.graph.replay()
        return in_float32(captured.y, copy=True)

    def converted(self, x: Tensor) -> Tensor:
        """Return images as the function takes them."""
        return x.to(self.weight.dtype, memory_format=torch.channels_last)

    def capture(self, key: tuple[object, ...], x: Tensor) -> Captured | None:
        """Capture a call for a shape, after some calls on a stream of their own; None where that cannot be done.

        Raises:
            SenetError: it cannot be done, and is required.
        """
        if len(self.captured) == MAX_GRAPHS:
            warn(
                f"inference is captured in CUDA graphs for {MAX_GRAPHS} shapes of images, and slower for all that come"
                " later; resize or pad the images to a few shapes"
            )
            return None
        # Tensors made in inference mode could not be written outside of it.
        with torch.inference_mode(False), torch.no_grad():
            example = self.converted(x).clone(memory_format=torch.channels_last)
            current, side = cuda.current_stream(), cuda.Stream()
            side.wait_stream(current)
            with cuda.stream(side):
                for _ in range(WARM_UP_CALLS):
                    self.run(example)
            current.wait_stream(side)
            try:
                graph = cuda.CUDAGraph()
                self.pool = self.pool or cuda.graph_pool_handle()
                # Other threads, such as those that copy batches to the GPU, may go on during a "thread_local" capture.
                with cuda.graph(graph, pool=self.pool, stream=side, capture_error_mode="thread_local"):
                    output = self.run(example)
            except RuntimeError as error:
                self.give_up(error)
                return None
        self.captured[key] = Captured(graph, example, output)
        return self.captured[key]

    def give_up(self, error: RuntimeError) -> None:
        """Go on without graphs, and say why."""
        self.gave_up = True
        message = f"inference cannot be captured in a CUDA graph: {first_line(error)}"
        if self.required:
            raise SenetError(f"{message}; choose cuda_graphs='auto' to run without") from error
        warn(f"{message}; it runs without one, which takes longer for small batches")
