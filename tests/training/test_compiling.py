"""Compiled steps train what uncompiled ones do, say what they cost, and are left where compiling fails."""

import json
import logging
from collections import Counter
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from senet.data import loading
from senet.errors import SenetError
from senet.factory import create_model
from senet.files import read_jsonl
from senet.models.base import Network
from senet.nn.block import SEBlock
from senet.nn.fused import set_fused
from senet.recipes import RECIPES, get_recipe
from senet.recipes.digits import digits
from senet.training import classification, compiling, loop, trainer
from senet.training.compiling import Steps, has_graphs, is_compiled
from senet.training.config import TrainConfig
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import resume, train
from senet.training.objective import Objective
from senet.training.run import RunFolder
from senet.training.sections import ComputeConfig, RegularizationConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")
OFF = ComputeConfig(cpu=True, compile="off")
ON = replace(OFF, compile="on")
SIMPLE = replace(digits(), epochs=2, batch_size=20, compute=OFF)  # batches of 19 and of 20
EVERYTHING = replace(
    SIMPLE,
    optimizer=replace(SIMPLE.optimizer, clip_norm=1.0),
    regularization=RegularizationConfig(label_smoothing=0.1, mixup=0.4, ema_decay=0.8, freeze_bn_epochs=1),
    compute=replace(OFF, accumulate=2, precision="bf16"),
)
open_all, compile_with = cache(loading.open_split), torch.compile


@pytest.fixture(autouse=True)
def _few_digits_on_one_thread(monkeypatch):
    sizes = {"train": 96, "eval": 60}
    monkeypatch.setattr(loading, "open_split", lambda data, split: replace(open_all(data, split), size=sizes[split]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class SmallNetwork(Network):
    """What a step has to deal with, in few layers: BatchNorm, SE, dropout."""

    default_cfg = {}  # noqa: RUF012  # timm is told nothing of it

    def __init__(self, config):
        super().__init__()
        self.config = replace(config, num_classes=10)
        self.conv, self.bn, self.se = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), SEBlock(8, 4)
        self.add_head(8, 10, dropout=0.3)

    def forward(self, x):
        x = self.se(self.bn(self.conv(x)).relu())
        return self.fc(self.dropout(x.mean((2, 3))))


@pytest.fixture
def small(monkeypatch):
    """Train a `SmallNetwork` whatever the configuration says: tracing one with twenty layers takes five seconds."""
    monkeypatch.setattr(classification, "build", lambda config, surgery: SmallNetwork(config))
    monkeypatch.setattr("senet.weights.folder.check_readable", lambda *_: None)  # it is none that can be read back


@pytest.fixture
def traced(monkeypatch):
    """Compile without Inductor, which would call a C++ compiler: the traced graphs run as they are; all are listed."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch, "compile", lambda module, dynamic, mode: compile_with(module, backend=backend, dynamic=dynamic)
    )
    torch.compiler.reset()
    yield graphs
    torch.compiler.reset()


def compiled(config):
    return replace(config, compute=replace(config.compute, compile="on"))


def state_of(run):
    return torch.load(run / "last" / "training_state.pt", weights_only=True)


def stop_in_second_epoch(config, run, monkeypatch):
    """Train until the first step of the second epoch, in which the run gets a signal."""
    backward = loop.Trainer.backward

    def stopped(self, *args, **options):
        if (self.position.epoch, self.position.batch) == (1, 0):
            self.caught.append(15)
        return backward(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "backward", stopped)
        with pytest.raises(TrainingInterrupted):
            train(config, run)


def assert_same_training(run, expected, atol=0.0):
    for key in ("model", "ema"):
        tensors, others = state_of(run)[key], state_of(expected)[key]
        assert (tensors is None) == (others is None)
        for name, tensor in (others or {}).items():
            torch.testing.assert_close(
                tensors[name], tensor, atol=atol, rtol=0, msg=lambda said, n=name: f"{n}: {said}"
            )


@pytest.mark.parametrize("config", [SIMPLE, EVERYTHING], ids=["simple", "everything"])
def test_compiled_steps_train_what_others_do(tmp_path, small, traced, capsys, config):
    """Both sizes of batch, and frozen BatchNorm, are compiled once for themselves; the names of the weights stay."""
    eager = train(config, tmp_path / "eager")
    assert not traced
    assert "compil" not in capsys.readouterr().err
    run = train(compiled(config), tmp_path / "run")
    assert_same_training(run, eager)
    said = capsys.readouterr().err
    assert said.count("compiling the steps, once for each size of batch") == 1
    kinds = [f" for batches of {size}" for size in ((19, 20) if config is SIMPLE else (18, 20))]
    if config is EVERYTHING:
        kinds += [f" with frozen BatchNorm{kind}" for kind in kinds]
    assert [said.count(f"compiled{kind}, ") for kind in kinds] == [1] * len(kinds)
    assert len(traced) == len(kinds)  # one graph each: nothing in a step breaks it in two


def test_a_compiled_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path, small, traced, monkeypatch):
    config = compiled(EVERYTHING)
    whole = train(config, tmp_path / "whole")
    stop_in_second_epoch(config, tmp_path / "run", monkeypatch)
    assert state_of(tmp_path / "run")["position"]["batch"] == 2
    assert_same_training(resume(tmp_path / "run"), whole)


def test_the_time_of_compiling_is_not_that_of_training(tmp_path, small, traced, monkeypatch):
    first, seconds = Steps.run_first, 1000.0

    def slow(self, passes, key):
        loss = first(self, passes, key)
        self.seconds += seconds
        monkeypatch.setattr(trainer.time, "perf_counter", lambda now=trainer.time.perf_counter: now() + seconds)
        return loss

    monkeypatch.setattr(Steps, "run_first", slow)
    run = train(compiled(replace(SIMPLE, epochs=1, batch_size=32)), tmp_path / "run")
    (row,) = read_jsonl(run / "metrics.jsonl")
    assert row["time_s"] < seconds
    assert row["images_per_s"] == pytest.approx(96 / row["time_s"])


class FailsAfterwards(nn.Module):
    """Does all that the objective does, in one of the passes, and then fails."""

    def __init__(self, objective, where):
        super().__init__()
        self.objective, self.where = objective, where

    def forward(self, images, targets):
        loss = self.objective(images, targets)
        if self.where == "forward":
            raise torch._dynamo.exc.BackendCompilerFailed(self.forward, KeyError("no such\nthing"), None)

        def fail(gradient):
            raise RuntimeError("capture failed")

        next(self.objective.parameters()).register_hook(fail)
        return loss


@pytest.mark.parametrize(
    ("where", "said"), [("forward", "BackendCompilerFailed: KeyError"), ("backward", "RuntimeError: capture failed")]
)
def test_where_compiling_fails_a_run_goes_on_as_if_it_had_not_been_tried(
    tmp_path, small, monkeypatch, capsys, where, said
):
    config = replace(EVERYTHING, compute=replace(EVERYTHING.compute, compile="auto", accumulate=1))
    uncompiled = train(config, tmp_path / "uncompiled")
    capsys.readouterr()
    monkeypatch.setattr(compiling, "is_compiled", lambda switch, device: (True, ""))
    monkeypatch.setattr(torch, "compile", lambda module, dynamic, mode: FailsAfterwards(module, where))
    hooks = []
    monkeypatch.setattr(nn.Parameter, "register_hook", lambda self, hook: hooks.append(real_hook(self, hook)))
    real_hook = torch.Tensor.register_hook
    restore = compiling.Before.restore

    def unhooked(self):
        for hook in hooks:
            hook.remove()
        restore(self)

    monkeypatch.setattr(compiling.Before, "restore", unhooked)
    run = train(config, tmp_path / "run")
    told = capsys.readouterr().err
    assert told.count("cannot be compiled") == 1
    assert f"run: the network cannot be compiled ({said}" in told
    assert "so its steps run uncompiled and take longer\n" in told
    assert_same_training(run, uncompiled)


def test_a_python_that_pytorch_cannot_compile_is_no_obstacle(monkeypatch):
    def refuse(module, dynamic, mode):
        raise RuntimeError("torch.compile is not supported on Python 3.99")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(compiling, "is_compiled", lambda switch, device: (True, ""))
    steps, said = Steps(Objective(nn.Identity(), "fp32", 0.0), CPU, replace(ON, compile="auto"), distributed=False), []
    steps.say = said.append
    for _ in range(2):
        assert steps.run(lambda call: call(torch.zeros(1, 2), torch.ones(1, 2)), torch.zeros(1, 2)) > 1
    assert [sentence for sentence in said if "3.99" in sentence] == said[1:]


def test_compiling_that_is_asked_for_and_fails_is_an_error_in_one_sentence(tmp_path, small, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, dynamic, mode: FailsAfterwards(module, "forward"))
    with pytest.raises(
        SenetError, match=r"^compute.compile is on, but .*\(Backend.*\); set it to auto or off$"
    ) as said:
        train(compiled(SIMPLE), tmp_path / "run")
    assert "\n" not in str(said.value)


def test_an_error_of_the_network_itself_is_not_taken_for_one_of_compiling(tmp_path, traced):
    one_pixel = replace(SIMPLE, batch_size=1, model=replace(SIMPLE.model, name="se_resnet18"))
    with pytest.raises(SenetError, match="gives BatchNorm nothing to average; set batch_size to at least 2"):
        train(compiled(one_pixel), tmp_path / "run")


@pytest.mark.parametrize(
    ("switch", "device", "triton", "expected"),
    [
        ("auto", GPU, True, True),
        ("auto", GPU, False, False),
        ("on", GPU, False, True),
        ("off", GPU, True, False),
        ("auto", CPU, True, False),
        ("auto", torch.device("mps"), True, False),
        ("on", CPU, False, True),
        ("off", CPU, True, False),
    ],
)
def test_what_is_compiled(monkeypatch, switch, device, triton, expected):
    monkeypatch.setattr(compiling, "find_spec", lambda name: SimpleNamespace() if triton else None)
    found, said = is_compiled(switch, device)
    assert found == expected
    assert bool(said) == (switch == "auto" and device == GPU and not triton)


def test_what_is_recorded_as_cuda_graphs(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    assert has_graphs(GPU, accumulate=1, distributed=False)
    assert not has_graphs(CPU, accumulate=1, distributed=False)
    assert not has_graphs(GPU, accumulate=2, distributed=False)
    assert not has_graphs(GPU, accumulate=1, distributed=True)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not has_graphs(GPU, accumulate=1, distributed=False)


def test_losses_outlive_the_memory_of_the_graphs_that_made_them(monkeypatch):
    """What CUDA graphs do, done on the CPU: every replay writes its loss to the same place, and steps are marked."""
    marked, modes, said = [], [], []
    place = torch.zeros(())

    def with_graphs(module, dynamic, mode):
        modes.append((dynamic, mode))
        return lambda images, targets: place.copy_(images.sum())

    monkeypatch.setattr(torch, "compile", with_graphs)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marked.append(True))
    monkeypatch.setattr(compiling, "has_graphs", lambda device, accumulate, distributed: True)
    steps = Steps(Objective(nn.Identity(), "fp32", 0.0), CPU, ON, distributed=False)
    steps.say = said.append
    losses = [steps.run(lambda call, n=n: call(torch.full((2,), n), None), torch.zeros(2)) for n in range(5)]
    assert [float(loss) for loss in losses] == [0, 2, 4, 6, 8]
    assert modes == [(False, "reduce-overhead")]
    assert len(marked) == 5
    assert len(said) == 2  # the second step still records; only then it is known how long that took
    assert steps.calls == Counter({(torch.Size([2]), ""): 2})


@pytest.mark.parametrize(("stored", "expected"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_runs_of_before_there_was_a_switch_are_read(tmp_path, stored, expected):
    folder = RunFolder(tmp_path / "run")
    folder.start(SIMPLE)
    path = folder.path / "config.json"
    values = json.loads(path.read_text())
    values["compute"]["compile"] = stored
    path.write_text(json.dumps(values))
    assert folder.read_config() == replace(SIMPLE, compute=replace(OFF, compile=expected))


def test_recipes_leave_compiling_to_the_library_but_the_shortest():
    configs = {name: get_recipe(name) for name in RECIPES}
    chosen = {name: config.compute.compile for name, config in configs.items() if config.task == "classification"}
    assert chosen.pop("digits") == "off"
    assert set(chosen.values()) == {"auto"}


@pytest.mark.slow
def test_inductor_trains_a_network_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch, caplog):
    """On the CPU, with its C++ compiler."""
    caplog.set_level(logging.INFO, "senet.training")
    config = replace(SIMPLE, batch_size=32)
    whole = train(compiled(config), tmp_path / "whole")
    assert "cannot be compiled" not in caplog.text
    assert caplog.text.count("compiled for batches of 32") == 1
    eager = train(config, tmp_path / "eager")
    losses = [[row["train_loss"] for row in read_jsonl(run / "metrics.jsonl")] for run in (whole, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    stop_in_second_epoch(compiled(config), tmp_path / "run", monkeypatch)
    torch.compiler.reset()  # as in a new process
    assert_same_training(resume(tmp_path / "run"), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "fused", "fused_numel"),
    [("aot_eager", False, 0), ("aot_eager", True, 10**9), ("aot_eager", True, 0), ("inductor", True, 0)],
    ids=["unfused", "small maps", "operators", "operators with inductor"],
)
def test_a_step_of_a_network_is_one_graph_and_gives_the_uncompiled_loss(monkeypatch, backend, fused, fused_numel):
    """In double precision, where rounding cannot hide anything, but for the loss itself, which is float32."""
    for name in ("MIN_FUSED_NUMEL", "MIN_FUSED_NUMEL_SE"):
        monkeypatch.setattr(f"senet.nn.fused.{name}", {"cpu": fused_numel})
    torch.manual_seed(0)
    model = create_model("cifar_se_resnet20", num_classes=10).double()
    objective = Objective(model, "fp32", 0.1)
    images, targets = torch.randn(4, 3, 32, 32).double(), torch.randint(10, (4,))
    weights = list(model.parameters())
    set_fused(model, False)
    layer_by_layer = torch.autograd.grad(objective(images, targets), weights)
    set_fused(model, fused)
    uncompiled = objective(images, targets)
    torch.compiler.reset()
    loss = compile_with(objective, fullgraph=True, backend=backend)(images, targets)  # a graph break would be an error
    torch.testing.assert_close(loss, uncompiled)
    for found, gradient in zip(torch.autograd.grad(loss, weights), layer_by_layer, strict=True):
        torch.testing.assert_close(found, gradient, atol=1e-5 * float(gradient.abs().max()), rtol=0)


def test_a_bool_is_refused():
    with pytest.raises(SenetError, match=r"^compute.compile is True; expected one of auto, on, off"):
        ComputeConfig(compile=True)
    with pytest.raises(SenetError, match=r"^compute.compile is 'yes'"):
        TrainConfig.from_dict({"model": {"name": "resnet18"}, "data": {}, "compute": {"compile": "yes"}})
