"""ExecuTorch's files, computed by its own runtime: the network's logits, and what the files say of themselves."""

import json
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import senet
from kinds import images, side_of, with_sane_outputs
from networks import assert_relatively_close
from senet.data.preprocessing import Preprocessing
from senet.deployment.to_executorch import OLDEST_TORCH
from senet.errors import SenetError

RUNTIME = "executorch.runtime"

if torch.__version__ < OLDEST_TORCH:
    pytest.skip(f"ExecuTorch needs PyTorch {OLDEST_TORCH}", allow_module_level=True)

NAME = "cifar_se_resnet20"
KINDS = (
    *("se_resnet18", "se_resnet50", "se_resnext50_32x4d", "senet154", "se_vgg16_bn", "se_bn_inception"),
    *("se_inception_resnet_v2", "se_mobilenet_v1", "se_shufflenet_v1_g3", "cifar_se_preact_resnet110"),
    *("cifar_se_wrn16_8", "cifar_se_shake_shake26_2x96d", "cifar_se_shake_even29_2x4x64d"),
)
"""A network of each family; that of the packaged one is computed in the quick tests."""


@pytest.fixture(scope="module", autouse=True)
def runtime():
    """Imported by the process that runs these tests alone: it takes seconds."""
    pytest.importorskip(RUNTIME, reason="executorch, which writes .pte, is not installed")


def computed(path, x):
    """Compute a file by ExecuTorch alone."""
    program = import_module(RUNTIME).Runtime.get().load_program(path)
    (logits,) = program.load_method("forward").execute([x])
    return logits.clone()


@pytest.fixture(scope="module")
def network():
    return senet.from_pretrained(NAME)


@pytest.fixture(scope="module")
def pixels(network, tmp_path_factory):
    return senet.export(network, tmp_path_factory.mktemp("a") / "a.pte", to="executorch", preprocess=True)


@pytest.mark.slow
@torch.no_grad()
def test_pixels_give_the_logits_of_the_network(pixels, network):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    wanted = network(network.preprocessing.build()(v2.functional.to_pil_image(picture))[None])
    assert_relatively_close(computed(pixels.path, torch.from_numpy(picture)[None]), wanted, 1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_it_is_used_as_any_network(pixels, network):
    opened = senet.load_exported(pixels.path)
    batch = torch.stack([network.preprocessing.build()(v2.functional.to_pil_image(each)) for each in random_pictures()])
    assert_relatively_close(opened(batch), network(batch), 1e-5)  # one by one: the file takes one
    assert opened.class_names == network.class_names
    assert opened.preprocessing == network.preprocessing
    assert pixels.parity.within_tolerance


def random_pictures(number=3):
    return torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_the_file_returns_its_metadata(pixels, network):
    program = import_module(RUNTIME).Runtime.get().load_program(pixels.path)
    stated = json.loads(program.load_method("senet").execute([])[0])
    assert stated == json.loads(json.dumps(dict(pixels.metadata)))
    assert stated["class_names"] == list(network.class_names)
    assert stated["input"]["shape"] == [1, 32, 32, 3]
    assert {"executorch", "torch"} <= set(stated["versions"])


@pytest.mark.slow
def test_xnnpack_computes_the_convolutions(pixels):
    content = pixels.path.read_bytes()
    assert b"XnnpackBackend" in content
    assert b"aten::convolution" not in content
    assert b"aten::sigmoid" not in content  # the gates' too


@pytest.mark.slow
def test_logging_stays_as_it_was(tmp_path):
    code = (
        "import logging, sys, senet\n"
        "senet.export('cifar_se_resnet20', sys.argv[1], to='executorch')\n"
        "assert not logging.getLogger().handlers\n"
        "logging.getLogger('senet').info('twice?')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.pte"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "cpuinfo" not in line]  # of its own runtime, which is C++
    assert lines == []


def test_bad_input_is_said(tmp_path):
    for options, said in (
        ({"resize": True, "preprocess": True}, "resize=True has no effect on executorch"),
        ({"dynamic": ("height",)}, "dynamic=height has no effect on executorch"),
        ({"precision": "fp16"}, "precision is 'fp16', which executorch is not written in"),
    ):
        with pytest.raises(SenetError, match=said):
            senet.export(NAME, tmp_path / "a.pte", to="executorch", **options)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.pte").write_bytes(b"no program")
    with pytest.raises(SenetError, match=r"a.pte cannot be opened by ExecuTorch"):
        senet.load_exported(tmp_path / "a.pte")


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_every_family(name, tmp_path):
    network, x = with_sane_outputs(name, short=True), images(2, side_of(name))
    network.preprocessing = Preprocessing(image_size=x.shape[2], resize=x.shape[2], mean=(0.5,) * 3, std=(0.5,) * 3)
    made = senet.export(network, tmp_path / "a.pte", to="executorch", batch_size=2)
    assert_relatively_close(computed(made.path, x), network(x), 1e-5)
