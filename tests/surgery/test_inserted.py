"""Models with inserted blocks: copied, saved, converted, distributed, compiled, exported, optimized."""

import copy
import io
import pickle
from functools import partial

import onnxruntime
import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from timm.utils import ModelEmaV3
from torch import nn

import senet
from senet import SenetError, find_sites, insert_se, remove_se
from senet.nn import fused
from senet.nn.attached import attached
from senet.optimization.rewriting import EarlyGate, rewrite
from surgery_models import excite, image, randomize
from tiers import slow_after

torchvision_model = partial(torchvision.models.get_model, weights=None)


# ---- what inserted models go through ---------------------------------------------------------------------------------


@pytest.fixture
def inserted() -> nn.Module:
    model = randomize(timm.create_model("resnet18", num_classes=5))
    insert_se(model)
    excite(model)
    return model.eval()


def test_copies_files_and_averages(inserted):
    x = image()
    expected = inserted(x)
    assert torch.equal(copy.deepcopy(inserted)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(inserted))(x), expected)
    assert torch.equal(ModelEmaV3(inserted).module(x), expected)
    file = io.BytesIO()
    torch.save(inserted.state_dict(), file)
    file.seek(0)
    other = timm.create_model("resnet18", num_classes=5)
    insert_se(other)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.eval()(x), expected)


def test_conversion_to_synchronized_batchnorm_keeps_the_blocks(inserted):
    x = image()
    expected = inserted(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(inserted)
    assert isinstance(converted.layer1[0].bn2, nn.SyncBatchNorm)
    torch.testing.assert_close(converted.eval()(x), expected)
    assert len(remove_se(converted).sites) == 8


def test_distributed_data_parallel(inserted, tmp_path):
    x, labels = image(), torch.tensor([0, 1])
    single = copy.deepcopy(inserted).train()
    F.cross_entropy(single(x), labels).backward()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(inserted.train())
        with pytest.raises(SenetError, match="wraps the model"):
            find_sites(parallel)
        F.cross_entropy(parallel(x), labels).backward()
    finally:
        dist.destroy_process_group()
    for inserted_one, plain_one in zip(inserted.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(inserted_one.grad, plain_one.grad)


@pytest.mark.slow
def test_compile_in_one_graph(inserted):
    x = image()
    compiled = torch.compile(inserted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), inserted(x))


def test_export(inserted):
    x = image()
    exported = torch.export.export(inserted, (x,)).module()
    torch.testing.assert_close(exported(x), inserted(x))


@pytest.mark.slow  # tests/deployment exports inserted blocks too
def test_onnx(inserted, tmp_path):
    x = image()
    torch.onnx.export(inserted, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), inserted(x), rtol=1e-4, atol=1e-4)


def test_optimizers_built_before_and_after():
    model = randomize(timm.create_model("resnet18", num_classes=5)).train()
    before = torch.optim.SGD(model.parameters(), lr=0.1)
    report = insert_se(model, senet.SEOptions(reduction=4))  # of so many channels some pass the ReLU
    before.add_param_group({"params": [model.get_parameter(name) for name in report.parameters], "lr": 1.0})
    F.cross_entropy(model(image()), torch.tensor([0, 1])).backward()
    old, new = model.conv1.weight.clone(), model.layer1[0].bn2.se.fc2.weight.clone()
    before.step()
    assert not torch.equal(model.conv1.weight, old)
    assert not torch.equal(model.layer1[0].bn2.se.fc2.weight, new)
    everything = {id(p) for group in torch.optim.SGD(model.parameters(), lr=0.1).param_groups for p in group["params"]}
    assert {id(model.get_parameter(name)) for name in report.parameters} <= everything


def test_twice_is_an_error(inserted):
    state = copy.deepcopy(inserted.state_dict())
    with pytest.raises(SenetError, match=r"ResNet has 8 SE blocks from insert_se already; senet\.remove_se"):
        insert_se(inserted)
    assert inserted.state_dict().keys() == state.keys()


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("create", [timm.create_model, torchvision_model], ids=["timm", "torchvision"])
@pytest.mark.parametrize("name", slow_after(1, ["resnet18", "resnet50"]))
@pytest.mark.parametrize("small", [False, True], ids=["four operators", "few operations"])
def test_inserted_blocks_run_fused(create, name, small, monkeypatch):
    model = randomize(create(name, num_classes=5)).double()
    report = insert_se(model)
    excite(model)
    reference, x, labels = copy.deepcopy(model).train(), image().double(), torch.tensor([0, 1])
    seen = []
    run = fused.excited_sum if small else fused.unchecked_tail

    def counting(*arguments):
        seen.append(arguments[1 if small else 2])
        return run(*arguments)

    monkeypatch.setattr(fused, run.__name__, counting)
    monkeypatch.setattr(fused, "MIN_FUSED_NUMEL_SE", {"cpu": 10**9 if small else 0})
    senet.fuse(model.train())
    found, expected = model(x), reference(x)
    assert sum(se is not None for se in seen) == len(report.sites)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    F.cross_entropy(found, labels).backward()
    F.cross_entropy(expected, labels).backward()
    for (key, inserted_one), plain_one in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (inserted_one.grad - plain_one.grad).abs().max() <= 1e-6 * plain_one.grad.abs().max(), key


def test_inference_moves_the_squeeze_of_inserted_blocks():
    model = randomize(timm.create_model("resnet50", num_classes=5)).eval().double()
    insert_se(model)
    excite(model)
    x = image().double()
    rewritten = rewrite(model)
    assert sum(isinstance(m, EarlyGate) for m in rewritten.modules()) == 16
    torch.testing.assert_close(rewritten(x), model(x), rtol=1e-9, atol=1e-9)
    assert attached(model.layer1[0].bn3) is not None
