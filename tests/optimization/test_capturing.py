"""CUDA graphs of an optimized network: what is captured, when, and what comes out; without a GPU on a stand-in."""

import copy
import logging
import threading

import pytest
import torch
from torch import nn

import senet
from fake_cuda import FakeCuda, FakeStream, LikeCuda
from networks import assert_relatively_close, randomize
from senet import errors
from senet.models.resnet import cifar_resnet
from senet.nn.block import SEOptions
from senet.nn.modes import borrowed
from senet.ops import gate
from senet.optimization import capturing, inference
from senet.optimization.capturing import MAX_GRAPHS, WARM_UP_CALLS, GraphRunner

CPU = torch.device("cpu")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(capturing, "cuda", fake)
    return fake


@pytest.fixture
def warnings(caplog):
    """The texts of warnings."""
    errors.warn.cache_clear()  # each is given once in a process
    caplog.set_level(logging.WARNING)
    return lambda: [record.message for record in caplog.records]


class Counted:
    """A small network that counts its calls and knows the streams that they were on.

    Args:
        cuda: the stand-in.
        dtype: of its weights.
    """

    def __init__(self, cuda, dtype=torch.float32):
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        self.network(torch.zeros(1, 3, 8, 8))
        self.network.to(dtype).requires_grad_(False)
        self.cuda, self.streams, self.inputs = cuda, [], []

    @property
    def weight(self):
        return self.network[0].weight

    def __call__(self, x):
        self.streams.append(self.cuda.current_stream())
        self.inputs.append(x)
        return self.network(x)


def images(number=2):
    return torch.randn(number, 3, 8, 8)


@torch.no_grad()
def test_one_capture_a_shape_after_calls_on_its_stream(cuda):
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight)
    for _ in range(4):
        for number in (1, 2):
            x = images(number)
            assert_relatively_close(runner(x), run.network(x), 1e-6)
    assert len(cuda.captures) == 2
    assert len(run.streams) == 2 * (WARM_UP_CALLS + 1)
    for i, (stream, pool, mode) in enumerate(cuda.captures):
        assert set(run.streams[i * (WARM_UP_CALLS + 1) :][: WARM_UP_CALLS + 1]) == {stream}
        assert cuda.main in stream.waited_for
        assert stream in cuda.main.waited_for
        assert (pool, mode) == (("pool", 1), "thread_local")


@torch.no_grad()
def test_outputs_are_left_alone_by_later_calls(cuda):
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight)
    x = images()
    first = runner(x)
    kept = first.clone()
    second = runner(-x)
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)
    first.zero_()
    assert torch.equal(runner(-x), second)
    assert all(x.data_ptr() != seen.data_ptr() for seen in run.inputs)


@torch.no_grad()
def test_images_are_converted_as_they_are_copied(cuda):
    run = Counted(cuda, torch.bfloat16)
    runner = GraphRunner(run, CPU, run.weight)
    for _ in range(2):
        x = images()
        y = runner(x)
        assert y.dtype == torch.float32
        assert_relatively_close(y, run.network(x.bfloat16()).float(), 1e-6)
    assert {seen.dtype for seen in run.inputs} == {torch.bfloat16}
    assert all(seen.is_contiguous(memory_format=torch.channels_last) for seen in run.inputs)


@torch.no_grad()
def test_shapes_beyond_a_handful_run_without_graphs(cuda, warnings):
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight)
    for _ in range(2):
        for number in range(1, MAX_GRAPHS + 3):
            x = images(number)
            assert_relatively_close(runner(x), run.network(x), 1e-6)
    assert len(cuda.captures) == len(runner.captured) == MAX_GRAPHS
    (text,) = warnings()
    assert f"CUDA graphs for {MAX_GRAPHS} shapes of images" in text
    assert "resize or pad" in text


@torch.no_grad()
def test_without_captures_it_runs_on_and_says_why_once(cuda, warnings):
    run = Counted(cuda)
    cuda.error = RuntimeError("operation not permitted when stream is capturing\nmore lines")
    runner = GraphRunner(run, CPU, run.weight)
    for number in (1, 1, 2):
        x = images(number)
        assert_relatively_close(runner(x), run.network(x), 1e-6)
    assert len(cuda.captures) == 1
    assert warnings() == [
        "inference cannot be captured in a CUDA graph: operation not permitted when stream is capturing; it runs"
        " without one, which takes longer for small batches"
    ]


@torch.no_grad()
def test_where_graphs_are_required_a_failed_capture_is_an_error(cuda):
    cuda.error = RuntimeError("not permitted")
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight, required=True)
    with pytest.raises(senet.SenetError, match="not permitted; choose cuda_graphs='auto' to run without"):
        runner(images())


@torch.no_grad()
def test_an_error_of_the_network_stays_one_and_blocks_nothing(cuda):
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight)
    with pytest.raises(RuntimeError, match="expected input"):
        runner(torch.randn(2, 4, 8, 8))
    x = images()
    assert_relatively_close(runner(x), run.network(x), 1e-6)


@torch.no_grad()
def test_inside_a_capture_of_the_caller_nothing_is_captured(cuda):
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight)
    cuda.capturing = True
    x = images()
    assert_relatively_close(runner(x), run.network(x), 1e-6)
    assert len(run.streams) == 1
    assert not cuda.captures


@torch.no_grad()
def test_images_on_another_device_are_left_to_the_network(cuda):
    run = Counted(cuda)
    runner = GraphRunner(run, torch.device("meta"), run.weight)
    runner(images())
    assert len(run.streams) == 1
    assert not cuda.captures


def test_inference_mode_and_its_absence_share_a_graph(cuda):
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight)
    x = images()
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            assert_relatively_close(runner(x), run.network(x), 1e-6)
    assert len(cuda.captures) == 1


@torch.no_grad()
def test_streams_wait_for_each_other(cuda):
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight)
    other = FakeStream()
    for _ in range(2):
        runner(images())
    assert cuda.main not in cuda.main.waited_for
    with cuda.stream(other):
        runner(images())
    assert other.waited_for == [cuda.main]
    runner(images())
    assert cuda.main.waited_for[-1] is other


@torch.no_grad()
def test_threads_take_turns(cuda):
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight)
    batches = [images() for _ in range(8)]
    outputs = {}

    @torch.no_grad()
    def work(i):
        for _ in range(5):
            outputs[i] = runner(batches[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cuda.captures) == 1
    for i, x in enumerate(batches):
        assert_relatively_close(outputs[i], run.network(x), 1e-6)


# ---- as `optimize_for_inference` uses it -----------------------------------------------------------------------------


@pytest.fixture
def on_cuda(cuda, monkeypatch):
    """Take the CPU for a GPU where there is none, with the kernels in Triton's interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(inference, "device_of", lambda _: LikeCuda())
    monkeypatch.setattr(gate, "runs_in_kernels", lambda _: True)
    return cuda


def network():
    torch.manual_seed(0)
    model = cifar_resnet(8, se=SEOptions(reduction=4))
    randomize(model.eval())
    return model.to(DEVICE)


def test_an_optimized_network_is_captured(on_cuda):
    model = network()
    optimized = senet.optimize_for_inference(model, backend="eager")
    assert optimized.micro_batch is None
    for _ in range(2):
        x = torch.randn(3, 3, 8, 8, device=DEVICE)
        with torch.no_grad():
            assert_relatively_close(optimized(x), model(x), 1e-5)
    assert len(on_cuda.captures) == 1
    names = {str(call[0]) for captured in optimized.run.captured.values() for call in captured.graph.calls}
    assert {"senet_triton.squeeze.default", "senet_triton.excite.default"} <= names


def test_graphs_can_be_switched_off(on_cuda):
    model, x = network(), torch.randn(3, 3, 8, 8, device=DEVICE)
    optimized = senet.optimize_for_inference(model, backend="eager", cuda_graphs="off")
    with torch.no_grad():
        assert_relatively_close(optimized(x), model(x), 1e-5)
    assert not on_cuda.captures
    assert [name for name, _ in optimized.named_children()] == ["network"]


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "ieee"), ("tf32", "tf32")])
def test_convolutions_are_captured_in_the_precision_that_was_asked_for(on_cuda, monkeypatch, precision, expected):
    monkeypatch.setattr("senet.nn.precision.has_tf32", lambda _: True)
    forward, seen = nn.Conv2d.forward, set()

    def watched(self, x):
        seen.add(torch.backends.cudnn.conv.fp32_precision)
        return forward(self, x)

    optimized = senet.optimize_for_inference(network(), backend="eager", precision=precision)
    before = torch.backends.cudnn.conv.fp32_precision
    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    optimized(torch.randn(3, 3, 8, 8, device=DEVICE))
    assert seen == {expected}
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_what_is_exported_has_no_operators_of_its_own(on_cuda):
    optimized = senet.optimize_for_inference(network(), backend="eager")
    x = torch.randn(3, 3, 8, 8, device=DEVICE)
    optimized(x)
    program = torch.export.export(optimized, (x,))
    assert not any("senet" in str(node.target) for node in program.graph.nodes)
    assert_relatively_close(program.module()(x), optimized(x), 1e-5)


def test_copies_and_converted_models_capture_again(on_cuda):
    optimized, x = senet.optimize_for_inference(network(), backend="eager"), torch.randn(3, 3, 8, 8, device=DEVICE)
    expected = optimized(x)
    assert torch.equal(copy.deepcopy(optimized)(x), expected)
    assert len(on_cuda.captures) == 2
    optimized.to(torch.bfloat16)
    assert_relatively_close(optimized(x), expected, 0.05)
    assert len(on_cuda.captures) == 3
    with borrowed(optimized, memory_format=torch.channels_last):  # as `evaluate` does; nothing moves
        optimized(x)
    assert len(on_cuda.captures) == 3


@torch.no_grad()
def test_weights_that_were_moved_by_hand_are_captured_again(cuda):
    run = Counted(cuda)
    runner = GraphRunner(run, CPU, run.weight)
    x = images()
    runner(x)
    run.weight.data = run.weight + 1
    assert_relatively_close(runner(x), run.network(x), 1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a model on the CPU")
def test_graphs_need_a_gpu():
    with pytest.raises(
        senet.SenetError, match="cuda_graphs is 'on', but the model is on cpu; move it to a GPU or choose"
    ):
        senet.optimize_for_inference(network(), backend="eager", cuda_graphs="on")


@needs_gpu
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_on_a_gpu(backend, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = senet.create_model("se_resnet50", num_classes=10).cuda()
    randomize(model.eval())
    optimized = senet.optimize_for_inference(model, backend=backend, cuda_graphs="on")
    kept = []
    for number in (1, 3, 1, 64):
        x = torch.randn(number, 3, 64, 64, device="cuda")
        with torch.inference_mode(number == 3):
            kept.append((optimized(x), model(x)))
    for found, wanted in kept:
        assert_relatively_close(found, wanted.detach(), 1e-3)
