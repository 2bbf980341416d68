"""In which layer values stop being finite, found by doing a run's last steps again."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import senet
from drivers import run_in_two_processes
from senet.errors import NotFiniteError
from senet.recipes.digits import digits
from senet.training import classification, compiling, trainer
from senet.training.layerwise import Layerwise, bad_rows, range_of
from senet.training.objective import Objective
from senet.training.replay import Cause
from senet.training.run import RunFolder
from senet.training.sections import ComputeConfig
from senet.training.state import STATE_KEYS
from senet.weights.tensors import read_state

RUN = replace(digits(), epochs=2, batch_size=32, trackers=(), compute=ComputeConfig(cpu=True, compile="off"))
LAYER = "layer2.0.conv1"


class Root(nn.Module):
    """The square root of what is positive: finite, but its slope at 0 is not."""

    def __init__(self) -> None:
        super().__init__()
        self.is_on = False

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().sqrt() if self.is_on else x


def small_objective() -> tuple[nn.Module, Objective]:
    model = senet.create_model("cifar_se_resnet20", num_classes=10, in_channels=1).train()
    return model, Objective(model, "fp32", 0.0)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4)


def first_fault(objective, images, targets):
    return Layerwise(objective, "network.").first_fault(lambda call: call(images, targets), len(images))


def test_a_batch_that_is_finite_has_no_fault_and_changes_nothing(batch):
    _, objective = small_objective()
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    assert first_fault(objective, *batch) is None
    after = objective.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in objective.modules())


def test_the_first_layer_of_many_that_overflow_is_named_with_its_values(batch):
    model, objective = small_objective()
    with torch.no_grad():
        model.layer2[0].conv1.weight.mul_(3e38)  # finite weights: only the sums overflow
        model.layer2[0].conv1.weight.clamp_(-3e38, 3e38)
    found = first_fault(objective, *batch)
    assert (found.where, found.layer, found.kind) == ("forward", LAYER, "Conv2d")
    assert found.values["input"].bad == found.values["weights"].bad == 0
    assert found.values["output"].bad > 0
    gates = found.values["gates of layer1.2.se"]  # of the block before
    assert 0 < gates.low <= gates.high < 1


@pytest.mark.parametrize(("precision", "largest"), [("fp16", 65504.0), ("bf16", 3.38e38)])
def test_a_layer_that_overflows_in_half_precision_alone_is_named(batch, precision, largest):
    """Weights and images are finite in float32, and so are the layer's sums in float32 where float16 has none."""
    model, objective = small_objective()
    objective.precision = precision
    with torch.no_grad():
        model.layer2[0].conv1.weight.fill_(largest / 2)
    found = first_fault(objective, *batch)
    assert (found.where, found.layer, found.kind) == ("forward", LAYER, "Conv2d")
    assert found.values["output"].bad > 0
    assert found.values["input"].bad == found.values["weights"].bad == 0
    assert found.values["output"].dtype == {"fp16": "float16", "bf16": "bfloat16"}[precision]
    remedy = Cause(fault=found).remedy()
    assert ("float16 ends at 65,504: set compute.precision to bf16 or fp32" in remedy) == (precision == "fp16")


def test_what_a_layer_computes_between_its_inner_ones_is_its_own(batch):
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 3, 1), nn.Flatten()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * float("inf"))[:, :10]

    found = first_fault(Objective(nn.Sequential(nn.Identity(), Outer()), "fp32", 0.0), *batch)
    assert (found.where, found.layer, found.kind) == ("forward", "1", "Outer")


def test_images_that_are_not_finite_are_told_from_layers(batch):
    _, objective = small_objective()
    images, targets = batch
    images[2, 0, 1, 1] = float("nan")
    found = first_fault(objective, images, targets)
    assert (found.where, found.layer, list(found.rows)) == ("images", "", [2])


def test_targets_that_are_not_finite_are_told_from_layers(batch):
    _, objective = small_objective()
    shares = torch.full((4, 10), 0.1)
    shares[1, 1] = float("inf")
    found = first_fault(objective, batch[0], shares)
    assert (found.where, found.layer, list(found.rows)) == ("targets", "", [1])


def test_a_loss_that_is_not_finite_is_told_from_layers(batch):
    model, _ = small_objective()
    weights = torch.ones(10)
    weights[2] = float("inf")
    found = first_fault(Objective(model, "fp32", 0.0, class_weights=weights), *batch)
    assert (found.where, found.layer) == ("loss", "")


@pytest.mark.parametrize("inplace", [False, True])
def test_the_first_backward_pass_that_overflows_is_named(batch, inplace):
    model, objective = small_objective()
    model.maxpool = Root()
    model.maxpool.is_on = True
    model.act1 = nn.ReLU(inplace=inplace)
    found = first_fault(objective, *batch)
    assert (found.where, found.layer) == ("backward", "maxpool")
    assert found.kind.startswith("Root, Sqrt")
    assert found.values["given"].bad == 0
    assert found.values["gradient"].bad > 0
    assert found.values["input"].low == 0  # where the slope is infinite


def test_ranges_and_rows():
    values = torch.tensor([[1.0, -2.0], [float("nan"), float("inf")]])
    found = range_of([values, {"x": torch.tensor(5.0)}, torch.tensor(3)])
    assert (found.low, found.high, found.bad, found.count) == (-2.0, 5.0, 2, 5)
    assert found.in_words() == "from -2 to 5, and 2 of 5 are not finite"
    assert range_of(values[1]).in_words() == "none of 2 values is finite"
    assert range_of(["no tensor", torch.arange(3)]) is None
    assert bad_rows(values, 2) == [1]
    assert bad_rows(values, 3) == []


# ---- in a run --------------------------------------------------------------------------------------------------------


def ruined(patched, step: int, ruin) -> None:
    """Let `ruin` change the network when a run computes the gradient of a step, also when it does so again."""
    gradient = trainer.Trainer.gradient

    def ruining(self, *args, **options):
        if self.position.step == step:
            ruin(self.parts.model)
        return gradient(self, *args, **options)

    patched.setattr(trainer.Trainer, "gradient", ruining)


def overflow(model: nn.Module) -> None:
    """Let a layer overflow."""
    with torch.no_grad():
        model.get_submodule(LAYER).weight.fill_(3e38)


def fails(run) -> tuple[str, dict]:
    with pytest.raises(NotFiniteError) as caught:
        senet.train(RUN, run)
    return str(caught.value), json.loads((run / "not_finite.json").read_text())


def assert_still_good(run) -> None:
    folder = RunFolder(run)
    state = folder.load_state(STATE_KEYS)
    assert all(tensor.isfinite().all() for tensor in state["model"].values() if tensor.is_floating_point())
    assert all(t.isfinite().all() for t in read_state(run / "last/model.safetensors").tensors.values())


@pytest.mark.quick_every(2)
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize(
    "how", ["layers", "fused", "bf16", pytest.param("compiled", marks=pytest.mark.slow), "accumulated"]
)
def test_a_run_names_the_layer_in_which_it_overflows(how, tmp_path, monkeypatch, request):
    """Whichever way the steps are computed; the run goes on from its last good state once the reason is gone."""
    compute = RUN.compute
    if how == "fused":
        request.getfixturevalue("fuse_small_maps")
        compute = replace(compute, fused="on")
    if how == "bf16":
        compute = replace(compute, precision="bf16")
    if how == "compiled":
        compile_with = torch.compile
        plain = lambda module, dynamic, mode: compile_with(module, backend="aot_eager", dynamic=dynamic)  # noqa: E731
        monkeypatch.setattr(compiling.torch, "compile", plain)
        compute = replace(compute, compile="on")
    if how == "accumulated":
        compute = replace(compute, accumulate=2)
    config = replace(RUN, compute=compute)
    step, batch = (4, 2) if how != "accumulated" else (3, 3)
    with monkeypatch.context() as patched:
        ruined(patched, step, overflow)
        with pytest.raises(NotFiniteError) as caught:
            senet.train(config, tmp_path / "run")
    said, report = str(caught.value), json.loads((tmp_path / "run/not_finite.json").read_text())
    assert f"at batch {batch} of epoch 2 with learning rate" in said
    assert f"in batch {batch} of epoch 2 {LAYER} (Conv2d) gives values that are not finite for all 32 images" in said
    assert "keeps the last good state: lower optimizer.lr" in said
    assert "\n" not in said
    assert (report["fault"]["layer"], report["fault"]["where"]) == (LAYER, "forward")
    assert report["message"] == said
    assert_still_good(tmp_path / "run")
    senet.resume(tmp_path / "run")
    assert [row["epoch"] for row in RunFolder(tmp_path / "run").metrics()] == [1, 2]


@pytest.mark.usefixtures("few_digits")
def test_a_run_names_the_layer_whose_gradient_overflows(tmp_path, monkeypatch):
    """The loss of that batch is finite; it tells only in the next one, when the weights are ruined."""
    gradient = trainer.Trainer.gradient

    def rooting(self, *args, **options):
        layer = self.parts.model.maxpool
        layer.__dict__.pop("forward", None)
        if self.position.step == 4:
            layer.forward = lambda x: x * 1e-22 * 1e-22 * 1e22 * 1e22  # whose gradient becomes 1e44
        return gradient(self, *args, **options)

    monkeypatch.setattr(trainer.Trainer, "gradient", rooting)
    said, report = fails(tmp_path / "run")
    assert (
        "in batch 2 of epoch 2 maxpool (Identity, MulBackward0) is the first whose backward pass gives gradients"
        in said
    )
    assert (report["fault"]["where"], report["batch"]) == ("backward", 2)
    assert_still_good(tmp_path / "run")


@pytest.mark.usefixtures("few_digits")
def test_a_step_that_overflows_is_told_from_gradients(tmp_path, monkeypatch):
    def ruin(self):
        taken(self)
        if self.position.step >= 4:
            self.parts.model.fc.bias.data[3] = float("inf")

    taken = trainer.Trainer.take_step
    monkeypatch.setattr(trainer.Trainer, "take_step", ruin)
    said, report = fails(tmp_path / "run")
    assert "the step, by finite gradients, makes fc (bias) not finite" in said
    assert report["fault"]["where"] == "step"


@pytest.mark.usefixtures("few_digits")
def test_images_that_are_not_finite_are_named(tmp_path, monkeypatch):
    prepare = classification.Classification.prepare

    def spoiled(task, images, targets):
        images, targets = prepare(task, images, targets)
        images[3, 0, 0, 0] = float("nan")
        return images, targets

    monkeypatch.setattr(classification.Classification, "prepare", spoiled)
    said, report = fails(tmp_path / "run")
    assert "in batch 1 of epoch 1 the images are not finite before the first layer for 1 of 32 images (image " in said
    assert "data.preprocessing.std" in said
    assert report["fault"]["rows"] == [3]


@pytest.mark.usefixtures("few_digits")
def test_what_does_not_happen_again_is_said(tmp_path, monkeypatch):
    calls = []

    def once(model):
        if not calls:
            overflow(model)
        calls.append(model)

    ruined(monkeypatch, 4, once)
    said, report = fails(tmp_path / "run")
    assert "the same steps, done again, were finite" in said
    assert report["fault"] is None


@pytest.mark.slow
def test_two_processes_name_the_layer_of_the_one_in_which_it_is(tmp_path):
    run_in_two_processes("overflow_in_two_processes.py", tmp_path)
    said = [(tmp_path / f"said{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert "the images are not finite before the first layer for 1 of " in said[0]
    report = json.loads((tmp_path / "run/not_finite.json").read_text())
    assert (report["process"], report["fault"]["where"]) == (1, "images")
    assert_still_good(tmp_path / "run")
