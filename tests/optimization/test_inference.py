"""Rewriting for inference: the same outputs from fewer layers, in every backend and in what is exported."""

import copy
import io
import pickle
import subprocess
import sys

import onnxruntime
import openvino
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import senet
from drivers import command
from networks import assert_relatively_close, randomize
from senet import SEOptions, insert_se
from senet.models.resnet import cifar_resnet
from senet.nn import precision as precision_module
from senet.nn.block import SEBlock
from senet.optimization.inference import InferenceModel
from senet.optimization.rewriting import EarlyGate, rewrite
from senet.optimization.runners import OneDNNRunner
from tiers import slow_except

FLOAT32 = 1e-5
BFLOAT16 = 0.05


def network(name):
    """A network with sane statistics in evaluation mode, and three images for it."""
    torch.manual_seed(0)
    if name == "tiny":
        model = cifar_resnet(8, se=SEOptions(reduction=4))
    else:
        create = timm.create_model if name.startswith("timm_") else senet.create_model
        model = create(name.removeprefix("timm_"), num_classes=10)
    randomize(model)
    side = 32 if name == "tiny" or "cifar" in name else 64
    return model.eval(), torch.randn(3, 3, side, side)


def number_of(kind, model):
    return sum(isinstance(module, kind) for module in model.modules())


@torch.no_grad()
def logits(model, x):
    return model(x)


# name, SE blocks whose squeeze moves, BatchNorms that stay
NETWORKS = (
    ("se_resnet18", 0, 0),
    ("se_resnet50", 16, 0),
    ("resnet50", 0, 0),
    ("se_resnext50_32x4d", 16, 0),
    ("senet154", 50, 0),
    ("cifar_se_resnet20", 0, 0),
    ("cifar_se_preact_resnet164", 54, 54),
    ("se_mobilenet_v1", 0, 0),
    ("se_vgg16_bn", 0, 0),
    ("se_bn_inception", 0, 0),
    ("timm_seresnet50", 16, 0),
    ("timm_seresnext26t_32x4d", 8, 0),
    ("timm_legacy_seresnet18", 0, 0),
    ("timm_legacy_seresnext26_32x4d", 8, 0),
    ("timm_legacy_senet154", 50, 0),
)
QUICK = (
    *("se_resnet18", "se_resnet50", "resnet50", "cifar_se_resnet20", "cifar_se_preact_resnet164", "se_mobilenet_v1"),
    *("se_bn_inception", "timm_seresnext26t_32x4d", "timm_legacy_seresnet18"),
)


@pytest.mark.quick_every(2)
@pytest.mark.parametrize(("name", "early", "norms"), slow_except(QUICK, NETWORKS), ids=[name for name, *_ in NETWORKS])
def test_the_rewritten_network_has_the_same_outputs(name, early, norms):
    model, x = network(name)
    before = copy.deepcopy(model.state_dict())
    optimized = senet.optimize_for_inference(model, backend="eager")
    assert_relatively_close(optimized(x), logits(model, x), FLOAT32)
    assert (number_of(EarlyGate, optimized), number_of(nn.BatchNorm2d, optimized)) == (early, norms)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("gate", ["sigmoid", "tanh", "relu", "hard_sigmoid", "sigmoid_x2"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_early_gate_is_the_gate(gate, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 20, 1, bias=bias)
    se = SEBlock(20, 4, gate=gate, bias=bias)
    nn.init.normal_(se.fc2.weight)
    graph = rewrite(nn.Sequential(conv, se))
    assert number_of(EarlyGate, graph) == 1
    x = torch.randn(2, 12, 5, 7)
    assert_relatively_close(logits(graph, x), logits(nn.Sequential(conv, se), x), FLOAT32)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Conv2d(8, 16, 1, stride=2),
        nn.Conv2d(8, 16, 1, groups=2),
        nn.Conv2d(8, 16, 1, padding=1),
        nn.Conv2d(16, 8, 1),
    ],
    ids=["3x3", "strided", "grouped", "padded", "narrowing"],
)
def test_the_squeeze_stays_where_moving_is_wrong_or_dearer(conv):
    model = nn.Sequential(conv, SEBlock(conv.out_channels, 4)).eval()
    x = torch.randn(2, conv.in_channels, 6, 6)
    graph = rewrite(model)
    assert number_of(EarlyGate, graph) == 0
    assert_relatively_close(logits(graph, x), logits(model, x), FLOAT32)


class Shared(nn.Module):
    """What must not be folded: a convolution read twice, one called twice, a norm without statistics."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4, track_running_stats=i != 2) for i in range(3))

    def forward(self, x):
        x = self.first(x)
        x = x + self.norms[0](x)
        x = self.second(self.norms[1](self.second(x)))
        return self.norms[2](self.third(x))


def test_what_cannot_be_folded_is_left():
    torch.manual_seed(0)
    model = Shared()
    for norm in model.norms[:2]:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, 6, 6)
    graph = rewrite(model.eval())
    assert number_of(nn.BatchNorm2d, graph) == 3
    assert_relatively_close(logits(graph, x), logits(model, x), FLOAT32)


def test_folding_keeps_small_variances():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].running_var.fill_(1e-9)
    model[1].running_mean.fill_(100.0)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = logits(copy.deepcopy(model).double(), x)
    assert_relatively_close(logits(rewrite(model), x.float()), expected.float(), FLOAT32)


@pytest.mark.parametrize("name", slow_except(["tiny"], ["tiny", "se_resnet50", "timm_seresnet50", "cifar_se_resnet20"]))
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", FLOAT32), pytest.param("bf16", BFLOAT16, marks=pytest.mark.slow)]
)
def test_openvino(name, precision, tolerance):
    model, x = network(name)
    optimized = senet.optimize_for_inference(model, backend="openvino", precision=precision, micro_batch=2)
    assert_relatively_close(optimized(x), logits(model, x), tolerance)
    assert optimized(x).dtype == torch.float32


ONEDNN = ["tiny", "se_resnet50", "timm_seresnet50", "cifar_se_resnet20", "se_bn_inception", "se_vgg16_bn"]


@pytest.mark.parametrize("name", slow_except(["tiny", "cifar_se_resnet20"], ONEDNN))
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", FLOAT32), ("bf16", BFLOAT16)])
def test_onednn(name, precision, tolerance):
    model, x = network(name)
    optimized = senet.optimize_for_inference(model, backend="onednn", precision=precision, micro_batch=2)
    assert_relatively_close(optimized(x), logits(model, x), tolerance)
    assert optimized(x).dtype == torch.float32


def test_onednn_computes_product_sum_and_relu_inside_of_convolutions(capfd):
    """As its own log says; and the same whatever the images' memory format is, and in inference mode."""
    model, x = network("se_resnet50")
    run = OneDNNRunner(rewrite(model))
    expected = run(x[:1])
    capfd.readouterr()
    for images in (x[:1], x[:1].to(memory_format=torch.channels_last), x.flip(3)[:1].flip(3), x.double()[:1]):
        with torch.inference_mode(), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            output = run(images)
        assert torch.equal(output, expected)
        lines = capfd.readouterr().out.splitlines()
        tails = [line for line in lines if "primitive,exec" in line and "binary_mul" in line and "eltwise_relu" in line]
        assert len(tails) == 16, lines  # blocks
        assert all("convolution" in line for line in tails)
    assert not torch.jit.onednn_fusion_enabled()


def test_onednn_is_for_the_cpu_and_says_what_it_cannot_run(monkeypatch):
    class Refused(nn.Module):
        def forward(self, x):
            return torch.nonzero(x.flatten()).reshape(2, 3)  # of another size for the zeros that it is traced with

    runner = OneDNNRunner(rewrite(nn.Sequential(nn.Conv2d(3, 3, 1), Refused())))
    with pytest.raises(senet.SenetError, match=r"backend 'onednn' cannot run this network: .*; choose 'auto'$"):
        runner(torch.ones(1, 3, 4, 4))
    with pytest.raises(senet.SenetError, match="backend is 'onednn', but the model is on meta; move it to the CPU"):
        senet.optimize_for_inference(network("tiny")[0].to("meta"), backend="onednn")
    monkeypatch.delattr(torch._C, "_jit_set_llga_enabled")
    with pytest.raises(senet.SenetError, match="backend 'onednn' is not part of PyTorch"):
        senet.optimize_for_inference(network("tiny")[0], backend="onednn")


@pytest.mark.slow
def test_signals_after_openvino_do_no_harm():
    """In a process that has used several models and let them go, as one that loads data with workers gets them."""
    done = subprocess.run(command("signals_after_openvino.py"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", FLOAT32), pytest.param("bf16", BFLOAT16, marks=pytest.mark.slow)]
)
def test_inductor(precision, tolerance):
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randn(3, 3, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), SEBlock(8, 2), nn.Flatten(), nn.Linear(512, 5)
    )
    randomize(model.eval())
    optimized = senet.optimize_for_inference(model, backend="inductor", precision=precision, micro_batch=2)
    assert_relatively_close(optimized(x), logits(model, x), tolerance)  # a part of two images, one of one
    assert_relatively_close(optimized(x), logits(model, x), tolerance)  # what is compiled, again


def test_micro_batches_are_put_together_in_order():
    model, _ = network("cifar_se_resnet20")
    x = torch.randn(11, 3, 32, 32)
    whole = senet.optimize_for_inference(model, backend="eager", micro_batch=100)(x)
    for micro_batch in (1, 3, 11, None):
        parts = senet.optimize_for_inference(model, backend="eager", micro_batch=micro_batch)(x)
        assert_relatively_close(parts, whole, FLOAT32)


@pytest.mark.slow
def test_exports_see_the_rewritten_graph():
    model, x = network("se_resnet50")
    expected = logits(model, x)
    optimized = senet.optimize_for_inference(model, backend="eager")
    program = torch.export.export(optimized, (x,))
    assert_relatively_close(program.module()(x), expected, FLOAT32)
    assert not any("batch_norm" in str(node.target) for node in program.graph.nodes)
    file = io.BytesIO()
    torch.onnx.export(program, (x,), file, dynamo=True, optimize=False, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_relatively_close(torch.from_numpy(answer), expected, FLOAT32)
    compiled = openvino.Core().compile_model(openvino.convert_model(program), "CPU")
    answer = compiled(x.numpy())[0]
    assert_relatively_close(torch.from_numpy(answer.copy()), expected, 0.05)  # in the precision that OpenVINO chooses


def test_copies_and_pickles():
    model, x = network("cifar_se_resnet20")
    optimized = senet.optimize_for_inference(model, backend="eager")
    for again in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized))):
        assert isinstance(again, InferenceModel)
        assert torch.equal(again(x), optimized(x))


def test_what_a_model_says_of_itself_is_kept():
    model = senet.from_pretrained("cifar_se_resnet20")
    optimized = senet.optimize_for_inference(model, backend="eager")
    assert optimized.class_names == model.class_names
    assert optimized.preprocessing == model.preprocessing


def test_a_fused_network_can_be_rewritten():
    model, x = network("se_resnet18")
    expected = logits(model, x)
    senet.fuse(model)
    optimized = senet.optimize_for_inference(model, backend="eager")
    assert_relatively_close(optimized(x), expected, FLOAT32)
    assert all(unit.fused for unit in model.layer1)  # the original stays what it was


@pytest.mark.parametrize("squeeze", ["max", "none"])
@pytest.mark.parametrize("inserted", [False, True], ids=["own", "inserted"])
def test_every_squeeze_can_be_rewritten(squeeze, inserted):
    torch.manual_seed(0)
    if inserted:
        model = timm.create_model("test_resnet", num_classes=10)
        insert_se(model, SEOptions(squeeze=squeeze, reduction=4), preserve_outputs=False)
    else:
        model = senet.create_model("cifar_se_resnet20", num_classes=10, se=SEOptions(squeeze=squeeze))
    randomize(model.eval())
    x = torch.randn(2, 3, 32, 32)
    optimized = senet.optimize_for_inference(model, backend="eager")
    assert_relatively_close(optimized(x), logits(model, x), FLOAT32)
    assert number_of(nn.BatchNorm2d, optimized) == 0


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else F.relu(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorrt"}, "backend is 'tensorrt'; expected one of auto, inductor, onednn, openvino, eager"),
        ({"precision": "fp16"}, "precision is 'fp16'; expected one of auto, fp32, tf32, bf16"),
        (
            {"precision": "tf32"},
            "precision is 'tf32', which NVIDIA's GPUs have since Ampere; use auto or fp32 on the CPU",
        ),
        ({"micro_batch": 0}, "micro_batch is 0; expected at least 1"),
        ({"backend": "eager"}, "Untraceable cannot be rewritten, for torch.fx cannot trace it"),
    ],
)
def test_bad_input_is_one_sentence(options, message):
    with pytest.raises(senet.SenetError, match=message) as raised:
        senet.optimize_for_inference(Untraceable(), **options)
    assert "\n" not in str(raised.value)


def test_without_openvino_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"needs openvino, .*: pip install 'senet\[openvino\]'"):
        senet.optimize_for_inference(network("cifar_se_resnet20")[0], backend="openvino")


def test_auto_is_the_precision_of_the_hardware(monkeypatch):
    model, x = network("cifar_se_resnet20")
    for has_bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision_module, "has_bf16", lambda _, has_bf16=has_bf16: has_bf16)
        optimized = senet.optimize_for_inference(model, backend="eager", precision="auto")
        assert next(optimized.network.parameters()).dtype == dtype
        assert optimized(x).dtype == torch.float32


def test_it_cannot_be_trained():
    optimized = senet.optimize_for_inference(network("cifar_se_resnet20")[0], backend="eager")
    with pytest.raises(senet.SenetError, match="train the model that it was made from"):
        optimized.train()


class Watching(torch.overrides.TorchFunctionMode):
    """Keeps the names of the functions that are called, as NNCF does to find what it quantizes."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.called.append(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", ["auto", "inductor", "openvino", "eager"])
def test_what_watches_the_operators_sees_those_of_the_network(backend):
    """NNCF failed with TypeErrors, for PyTorch's compilers do not run while each call of an operator is replaced."""
    if backend == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    model = senet.create_model("cifar_se_resnet20").eval()
    fast, x = senet.optimize_for_inference(model, backend=backend), torch.randn(2, 3, 32, 32)
    with torch.no_grad(), Watching() as watching:
        found = fast(x)
    assert watching.called.count("conv2d") == 37
    torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5)


def test_a_default_device_does_not_keep_the_backend_from_running(monkeypatch):
    fast = senet.optimize_for_inference(senet.create_model("cifar_se_resnet20").eval(), backend="openvino")
    monkeypatch.setattr(fast, "run", lambda x: torch.ones(len(x), 10))
    with torch.device("cpu"):
        assert fast(torch.zeros(1, 3, 32, 32)).sum() == 10


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_nncf_quantizes_the_module(backend):
    nncf = pytest.importorskip("nncf", reason="nncf is not installed")
    model = senet.create_model("cifar_se_resnet20", weights="cifar10").eval()
    images = [torch.randn(1, 3, 32, 32) for _ in range(4)]
    fast = senet.optimize_for_inference(model, backend=backend)
    int8 = nncf.quantize(fast, nncf.Dataset(images), subset_size=4)
    quantizers = [m for m in int8.modules() if type(m).__name__ in ("SymmetricQuantizer", "AsymmetricQuantizer")]
    assert len(quantizers) > 40
    found, exact = int8(images[0]).detach(), fast(images[0])
    assert 1e-4 < (found - exact).norm() / exact.norm() < 0.3
