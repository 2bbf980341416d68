"""The two operators of inference: the formula in float64, and the Triton kernels (interpreted without a GPU)."""

import subprocess
from itertools import product

import pytest
import torch

from drivers import ENVIRONMENT, command
from senet.ops import gate
from senet.ops.gates import GATES

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LAYOUTS = (torch.channels_last, torch.contiguous_format)
# images, channels in, hidden units, channels out, height, width
SHAPES = (
    (1, 1, 1, 1, 1, 1),
    (2, 37, 5, 70, 5, 7),
    (1, 8, 70, 130, 1, 3),  # more hidden units than a program of `excite` takes at once
    (1, 5, 150, 12, 9, 9),  # and than a program of `squeeze` takes
    (1, 70, 64, 6, 40, 40),  # more tiles than parts
    (9, 16, 4, 32, 8, 8),
)


@pytest.fixture(autouse=True)
def on_kernels(monkeypatch):
    """Run maps on the kernels, but those in float64."""
    assert gate.has_kernel("sigmoid")
    monkeypatch.setattr(gate, "runs_in_kernels", lambda x: x.dtype != torch.float64)


def drawn(*shape, layout=torch.contiguous_format, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=layout)


def assert_near(found, wanted, tolerance):
    """Assert equality relative to the largest value."""
    assert found.shape == wanted.shape
    assert (found.double() - wanted).abs().max().item() <= tolerance * max(wanted.abs().max().item(), 1e-2)


def by_hand(v, hidden, fc2, bias2, function, bias, shortcut, shortcut_bias, relu):
    """The end of a block, as the paper writes it."""
    s = function(fc2 @ hidden[0].clamp(min=0) + bias2)
    y = (v[0] + bias[:, None, None]) * s[:, None, None] + shortcut[0] + shortcut_bias[:, None, None]
    return (y.clamp(min=0) if relu else y)[None]


def test_the_formula():
    torch.manual_seed(0)
    x, v, shortcut = (torch.randn(1, c, 4, 3, dtype=torch.float64) for c in (6, 8, 8))
    shapes = ((6,), (2, 6), (2,), (8, 2), (8,), (8,), (8,))
    bias, fc1, bias1, fc2, bias2, v_bias, w_bias = (torch.randn(s, dtype=torch.float64) for s in shapes)
    parts, h = gate.squeeze(x, bias, True, fc1, bias1)
    assert torch.equal(h, (x + bias[:, None, None]).clamp(min=0))
    hidden = (fc1 @ h[0].flatten(1).mean(1) + bias1)[None]
    assert_near(parts.sum(1), hidden, 1e-14)
    y = gate.excite(v, parts, fc2, bias2, "tanh", v_bias, shortcut, w_bias, relu=True)
    assert_near(y, by_hand(v, hidden, fc2, bias2, torch.tanh, v_bias, shortcut, w_bias, relu=True), 1e-14)


CASES = [
    *product(SHAPES, (torch.float32,), LAYOUTS, (True, False)),
    *product(SHAPES[1:2], (torch.bfloat16, torch.float16), LAYOUTS, (True, False)),
]


@pytest.mark.quick_every(4)
@pytest.mark.parametrize(("shape", "dtype", "layout", "full"), CASES)
def test_the_kernels(shape, dtype, layout, full):
    """With all that may stand before and after a gate, and with none of it."""
    torch.manual_seed(0)
    n, c_in, k, c, *side = shape
    x = drawn(n, c_in, *side, layout=layout, dtype=dtype)
    v, shortcut = (drawn(n, c, *side, layout=layout, dtype=dtype) for _ in range(2))
    vectors = ((c_in,), (k, c_in), (k,), (c, k), (c,), (c,), (c,))
    bias, fc1, bias1, fc2, bias2, v_bias, w_bias = (drawn(*s, dtype=dtype) for s in vectors)
    wide = lambda *tensors: [t.double() for t in tensors]  # noqa: E731
    if full:
        parts, h = gate.squeeze(x, bias, True, fc1, bias1)
        exact, exact_h = gate.squeeze(*wide(x, bias), True, *wide(fc1, bias1))
        y = gate.excite(v, parts, fc2, bias2, "sigmoid", v_bias, shortcut, w_bias, True)
        wanted = gate.excite(*wide(v, exact, fc2, bias2), "sigmoid", *wide(v_bias, shortcut, w_bias), True)
        assert h.stride() == x.stride()
    else:
        parts, h = gate.squeeze(x, None, False, fc1, bias1)
        exact, exact_h = gate.squeeze(x.double(), None, False, *wide(fc1, bias1))
        y = gate.excite(v, parts, fc2, bias2, "sigmoid")
        wanted = gate.excite(*wide(v, exact, fc2, bias2), "sigmoid")
        assert h is x
    assert_near(parts.sum(1, keepdim=True), exact, 2e-6)
    assert_near(h, exact_h, TOLERANCES[dtype])
    assert_near(y, wanted, TOLERANCES[dtype])
    assert (y.dtype, y.stride()) == (v.dtype, v.stride())
    assert parts.shape[1] * k <= 2 * 2048


@pytest.mark.parametrize("name", gate.KINDS)
def test_the_gates_of_the_kernels(name):
    logits = torch.linspace(-9, 9, 64, device=DEVICE)
    ones, nothing = torch.ones(1, 64, 1, 1, device=DEVICE), torch.zeros(1, 1, 1, device=DEVICE)
    assert gate.has_kernel(name)
    y = gate.excite(ones, nothing, logits.new_zeros(64, 1), logits, name)
    assert_near(y.flatten(), GATES[name].function(logits.double()), 1e-6)
    logits[3] = torch.nan
    y = gate.excite(ones, nothing, logits.new_zeros(64, 1), logits, name)
    assert y.isnan().flatten().tolist() == logits.isnan().tolist()


def test_a_nan_passes_all_relus():
    x = torch.full((1, 2, 2, 2), torch.nan, device=DEVICE)
    parts, h = gate.squeeze(x, None, True, torch.ones(1, 2, device=DEVICE), torch.zeros(1, device=DEVICE))
    assert h.isnan().all()
    one = torch.ones(2, 1, 2, 2, device=DEVICE)[:1]
    y = gate.excite(one, parts, torch.ones(1, 1, device=DEVICE), torch.zeros(1, device=DEVICE), "sigmoid", relu=True)
    assert y.isnan().all()


def test_an_image_does_not_depend_on_the_others():
    torch.manual_seed(0)
    x, v = (drawn(9, 16, 8, 8, layout=torch.channels_last) for _ in range(2))
    fc1, bias1, fc2, bias2 = (drawn(*s) for s in ((4, 16), (4,), (16, 4), (16,)))
    outputs = []
    for images in (slice(None), slice(4, 5)):
        parts, _ = gate.squeeze(x[images], None, False, fc1, bias1)
        outputs.append(gate.excite(v[images], parts, fc2, bias2, "sigmoid"))
    assert torch.equal(outputs[0][4:5], outputs[1])


def test_maps_in_other_layouts_are_copied():
    """One of the two has its channels last, or neither does."""
    torch.manual_seed(0)
    v = drawn(2, 6, 4, 5, layout=torch.channels_last)
    parts, fc2, bias2 = drawn(2, 1, 3), drawn(6, 3), drawn(6)
    for shortcut in (drawn(2, 6, 4, 5), drawn(2, 6, 8, 10)[:, :, ::2, ::2], drawn(1, 6, 4, 1).expand(2, 6, 4, 5)):
        y = gate.excite(v, parts, fc2, bias2, "relu", shortcut=shortcut)
        wide = [t.double() for t in (v, parts, fc2, bias2)]
        assert_near(y, gate.excite(*wide, "relu", shortcut=shortcut.double()), 2e-6)


def test_a_shortcut_of_another_shape_is_summed_by_pytorch():
    v, parts = drawn(2, 6, 4, 5), drawn(2, 1, 3)
    y = gate.excite(v, parts, torch.zeros(6, 3, device=DEVICE), drawn(6), "relu", shortcut=drawn(2, 1, 4, 5))
    assert y.shape == v.shape


def test_the_operators_keep_to_the_rules_of_custom_operators():
    x, bias, fc1, bias1, fc2 = (drawn(*s) for s in ((2, 6, 4, 5), (6,), (3, 6), (3,), (6, 3)))
    checks = ("test_schema", "test_autograd_registration")
    torch.library.opcheck(torch.ops.senet_triton.squeeze, (x, bias, True, fc1, bias1), test_utils=checks)
    parts, _ = torch.ops.senet_triton.squeeze(x, bias, True, fc1, bias1)
    arguments = (x, parts, fc2, bias, 0, bias, x, None, True)
    torch.library.opcheck(torch.ops.senet_triton.excite, arguments, test_utils=checks)


def driven(name, *arguments):
    """The lines that a driver prints in a process in which Triton does not interpret."""
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "TRITON_INTERPRET"}
    words = command(name, *arguments)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_kernels_compile_for_a_gpu_and_move_16_bytes_at_a_time():
    lines = driven("compile_gate_kernels.py")
    assert len(lines) == 2 * 2
    for line in lines:
        assert "ld.global.v4.b32" in line
        assert "st.global.v4.b32" in line


@pytest.mark.slow
def test_torch_compile_sees_two_kernels_a_block_and_nothing_else_of_se():
    """The operators that a compiler for a GPU gets, without one, from the plain network and from the one with SE."""
    plain, se = (dict(word.split("=") for word in line.split()) for line in driven("trace_for_a_gpu.py"))
    assert int(se.pop("triton_kernel_wrapper_functional")) == 2 * 16
    assert "triton_kernel_wrapper_functional" not in plain
    assert se["aten.convolution.default"] == plain["aten.convolution.default"] == "53"
    assert int(plain.pop("aten.relu.default")) - int(se.pop("aten.relu.default")) == 2 * 16
    assert int(plain.pop("aten.add.Tensor")) == 16
    assert {name for name in se if not name.startswith("aten.empty")} == set(plain)
