"""Finding gates, hearing them, and keeping them as sums: against NumPy on all gates at once."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

import senet
from senet import SEBlock, SenetError, SEOptions, record_excitations
from senet.analysis.gates import choose_blocks, find_blocks, gate_hooks, gate_module
from senet.analysis.recording import BINS, Recording


def images(number: int = 8, side: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(number, channels, side, side, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Two blocks of every gate and squeeze that is asked for."""

    num_classes = 3

    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.se1 = SEBlock(16, 2, **options)
        self.conv = nn.Conv2d(16, 24, 3, 2, 1)
        self.se2 = SEBlock(24, 4, **options)
        self.fc = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se1(self.stem(x).relu())
        return self.fc(self.se2(self.conv(x).relu()).mean((2, 3)))


def batches(number: int = 5, size: int = 7) -> list[tuple[Tensor, Tensor]]:
    """Labels are drawn from the classes 0 and 2; class 1 has no image."""
    generator = torch.Generator().manual_seed(3)
    return [(images(size, seed=i), 2 * torch.randint(2, (size,), generator=generator)) for i in range(number)]


@torch.no_grad()
def gates_by_hand(model: Net, data: list[tuple[Tensor, Tensor]]) -> tuple[list[np.ndarray], np.ndarray]:
    """All gates (images, C) of both blocks by the block's own method, in float64, and the labels."""
    found: list[list[Tensor]] = [[], []]
    for x, _ in data:
        u = model.stem(x).relu()
        found[0].append(model.se1.compute_gate(u).mean((2, 3)))
        u = model.conv(u * model.se1.compute_gate(u)).relu()
        found[1].append(model.se2.compute_gate(u).mean((2, 3)))
    return [torch.cat(f).double().numpy() for f in found], torch.cat([labels for _, labels in data]).numpy()


@pytest.mark.parametrize(
    "options", [{}, {"gate": "tanh"}, {"gate": "relu"}, {"squeeze": "none"}, {"gate": "sigmoid_x2"}]
)
def test_sums_are_those_of_all_gates_at_once(options):
    model, data = Net(**options).eval(), batches()
    recording = record_excitations(model, data)
    gates, labels = gates_by_hand(model, data)
    assert recording.class_names == ("0", "1", "2")
    assert recording.num_images == 35
    for record, g in zip(recording.blocks, gates, strict=True):
        low, high = record.block.low, record.block.high
        for k in (0, 1, 2):
            of = g[labels == k]
            assert record.count[k] == len(of)
            if len(of):
                np.testing.assert_allclose(record.mean[k], of.mean(0), rtol=1e-12)
                np.testing.assert_allclose(record.variance[k], of.var(0), rtol=1e-6, atol=1e-15)
            edges = np.linspace(low, high, BINS + 1)
            for c in (0, 5):
                counts, _ = np.histogram(np.clip(of[:, c], low, high), edges)
                assert np.abs(record.histogram[k, c].numpy() - counts).sum() <= 2  # a gate on an edge goes either way
            assert record.histogram[k].sum() == len(of) * record.block.channels
        np.testing.assert_allclose(record.overall_mean, g.mean(0), rtol=1e-12)
        np.testing.assert_allclose(record.overall_variance, g.var(0), rtol=1e-6, atol=1e-15)


def test_the_variance_of_a_nearly_constant_gate_is_kept():
    model = Net(gate="hard_sigmoid")
    with torch.no_grad():
        model.double()
        for fc in (model.se1.fc2, model.se2.fc2):
            fc.weight *= 1e-7
    data = [(x.double(), y) for x, y in batches()]
    gates, labels = gates_by_hand(model, data)
    for record, g in zip(record_excitations(model, data).blocks, gates, strict=True):
        assert record.variance[0].max() < 1e-12
        np.testing.assert_allclose(record.variance[0], g[labels == 0].var(0), rtol=1e-5, atol=1e-24)


def test_batches_make_no_difference():
    model, data = Net().eval(), batches()
    whole = record_excitations(model, [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))])
    parts = record_excitations(model, data)
    first, second = record_excitations(model, data[:2]), record_excitations(model, data[2:])
    for other in (parts, first.merged(second), second.merged(first)):
        for a, b in zip(whole.blocks, other.blocks, strict=True):
            assert torch.equal(a.count, b.count)
            torch.testing.assert_close(a.mean, b.mean, rtol=1e-6, atol=0)
            torch.testing.assert_close(a.variance, b.variance, rtol=1e-4, atol=1e-12)
            assert (a.histogram - b.histogram).abs().sum() <= 2


def image_folder(root: Path, number: int = 11) -> Path:
    """CIFAR's ten classes; the second split of the last batch is smaller than the first."""
    names = senet.from_pretrained(Path(senet.__file__).parent / "pretrained/cifar_se_resnet20/cifar10").class_names
    generator = np.random.default_rng(0)
    for i in range(number):
        folder = root / "val" / names[i % 10]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.mark.slow  # tests/cli/test_processes.py has the command besides
def test_processes_share_the_images(tmp_path):
    folder, output = image_folder(tmp_path / "data"), tmp_path / "gates.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "senet"]
    arguments = ["record", "cifar_se_resnet20", "--data", str(folder), "--batch-size", "4", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("holds the gates of 11 images") == 1
    together = Recording.load(output)
    alone = record_excitations("cifar_se_resnet20", folder, batch_size=4, device="cpu")
    assert alone.num_images == 11
    for a, b in zip(alone.blocks, together.blocks, strict=True):
        assert torch.equal(a.count, b.count)
        torch.testing.assert_close(a.mean, b.mean, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(a.variance, b.variance, rtol=1e-3, atol=1e-9)


# ---- which models ----------------------------------------------------------------------------------------------------

MODELS = {
    "ours": (lambda: senet.create_model("se_resnet50"), 16, "SE_2_1", "SE_5_3"),
    "ours, one stage": (
        lambda: senet.create_model("se_resnet50", se=SEOptions(stages=(4,), placement="pre")),
        6,
        "SE_4_1",
        "SE_4_6",
    ),
    "inserted": (lambda: inserted(timm.create_model("resnet18")), 8, "SE_2_1", "SE_5_2"),
    "timm seresnet50": (lambda: timm.create_model("seresnet50"), 16, "SE_2_1", "SE_5_3"),
    "timm legacy": (lambda: timm.create_model("legacy_seresnet18"), 8, "SE_2_1", "SE_5_2"),
    "timm efficientnet": (lambda: timm.create_model("efficientnet_b0"), 16, "SE_2_1", "SE_6_5"),
    "timm ese": (lambda: timm.create_model("ese_vovnet19b_dw"), 4, "SE_2_1", "SE_5_1"),
    "efficientnet": (lambda: torchvision.models.efficientnet_b0(), 16, "SE_2_1", "SE_6_5"),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(), 9, "SE_2_1", "SE_4_3"),
    "regnet_y": (lambda: torchvision.models.regnet_y_400mf(), 16, "SE_2_1", "SE_5_6"),
}


def inserted(model: nn.Module) -> nn.Module:
    senet.insert_se(model)
    for name, x in model.named_parameters():
        if ".se." in name:
            nn.init.normal_(x)
    return model


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("name", MODELS)
def test_gates_of_every_library_are_recorded_and_the_model_is_left_as_it_was(name):
    create, number, first, last = MODELS[name]
    torch.manual_seed(0)
    model = create().eval()
    blocks = find_blocks(model, images(1, 64))
    assert (len(blocks), blocks[0].name, blocks[-1].name) == (number, first, last)
    x = images(3, 64)
    keys, before = list(model.state_dict()), model(x)
    gates: dict[str, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        gates[names[module]] = (output / args[0]).flatten(2).nanmean(2)

    names = {model.get_submodule(block.module): block.name for block in blocks}
    handles = [module.register_forward_hook(keep) for module in names]
    model(x)
    for handle in handles:
        handle.remove()
    recording = record_excitations(model, [x])
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys
    assert not any(m._forward_hooks for m in names)
    for record in recording.blocks:  # what the block did to its input, whatever its code is
        expected = gates[record.block.name].double().mean(0)
        known = expected.isfinite()
        torch.testing.assert_close(record.mean[0][known], expected[known], rtol=1e-4, atol=1e-5)
        assert record.block.channels == len(expected)


def test_outputs_are_those_of_the_model_while_it_is_recorded():
    model, outputs = Net().train(), []
    model.fc.register_forward_hook(lambda m, args, out: outputs.append(out.detach()))
    x = images()
    expected = copy.deepcopy(model).eval()(x)
    outputs.clear()
    record_excitations(model, [x])
    assert torch.equal(outputs[-1], expected)
    assert model.training
    assert not model.se1.fc2._forward_hooks


def test_what_a_callback_returns_has_no_effect():
    model, x = Net().eval(), images()
    expected, called = model(x), []
    with gate_hooks(model, find_blocks(model, x), lambda block, gates: called.append(block.name) or torch.zeros(1)):
        assert torch.equal(model(x), expected)
    assert len(called) == 2


# ---- files and bad input ---------------------------------------------------------------------------------------------


def test_a_file_holds_all_of_it(tmp_path):
    recording = record_excitations(Net(), batches())
    recording.save(tmp_path / "new" / "r.safetensors")
    found = Recording.load(tmp_path / "new" / "r.safetensors")
    assert found.class_names == recording.class_names
    assert found.provenance == recording.provenance
    assert found.provenance["model"] == "Net"
    for a, b in zip(found.blocks, recording.blocks, strict=True):
        assert a.block == b.block
        assert all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("count", "mean", "variance", "histogram"))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["r.safetensors"]


def test_an_interrupted_recording_leaves_nothing():
    model = Net()

    def stopping():
        yield from batches()[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_excitations(model, stopping())
    assert model.training
    assert not model.se1.fc2._forward_hooks


def test_images_without_labels(tmp_path):
    for i in range(3):
        Image.new("RGB", (32, 32), (80 * i, 100, 50)).save(tmp_path / f"{i}.png")
    recording = record_excitations("cifar_se_resnet20", tmp_path)
    assert (recording.class_names, recording.num_images) == ((), 3)
    with pytest.raises(SenetError, match="has no labels; accuracy needs a folder of images for each class"):
        senet.evaluate("cifar_se_resnet20", tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: record_excitations(timm.create_model("resnet18"), batches()),
            "ResNet has no gates: no SE block of this library",
        ),
        (lambda: record_excitations(Net(), batches(), bins=15), "bins is 15; expected a multiple of 10"),
        (lambda: record_excitations(Net(), batches(), blocks=["SE_2_9"]), r"no block 'SE_2_9'; the nearest are SE_2_1"),
        (lambda: record_excitations(Net(), []), "data has no batches"),
        (lambda: record_excitations(Net(), ["digits"]), "data is not batches of images"),
        (
            lambda: record_excitations(Net(), [(images(), torch.full((len(images()),), 77))]),
            "a label of the batches given is not one of the network's 0 to ",
        ),
        (lambda: record_excitations(Net()), "data is missing"),
        (lambda: record_excitations(Net(), batches(), batch_size=0), "batch_size is 0; expected at least 1"),
        (lambda: record_excitations(Net(), [images() * torch.nan]), "has gates that are not finite numbers"),
        (lambda: record_excitations(Net(), batches())["SE_9_9"], "there is no block 'SE_9_9'"),
        (lambda: Recording.load("nowhere.safetensors"), "there is no recording nowhere.safetensors"),
        (lambda: Recording.load(__file__), "is not a recording of excitations, or is damaged"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(SenetError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SenetError, match="cannot be written"):
        record_excitations(Net(), batches()).save(tmp_path / "file" / "r.safetensors")


def test_blocks_are_chosen_by_either_name():
    blocks = find_blocks(Net(), images(1))
    assert choose_blocks(blocks, ["se2", "SE_2_1", "se1"]) == (blocks[1], blocks[0])
    assert choose_blocks(blocks, None) == blocks
    with pytest.raises(SenetError, match="blocks is empty; name at least one"):
        choose_blocks(blocks, ())
    assert gate_module(nn.Conv2d(1, 1, 1)) is None
