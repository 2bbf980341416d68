"""The residual tail and its gradients against autograd of the plain formula in float64."""

from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from senet.errors import SenetError
from senet.ops import Excitation, Norm, Tail, operators, residual_tail

EPS = 1e-3
NORMS, SHORTCUTS = ("none", "batch", "given"), ("none", "plain", "batch", "given")
LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((1, 8, 6, 5), (5, 8, 1, 1), (4, 1, 5, 5), (2, 37, 7, 5), (2, 2050, 2, 3), (2, 64, 48, 48))

# Largest allowed difference: of a value, and in units of the largest value of its tensor.
TOLERANCES = {torch.float64: 1e-11, torch.float32: 5e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}


@dataclass(frozen=True)
class Case:
    norm: str = "batch"  # or "given" or "none"
    se: str = "biased"  # or "bare" or "none"
    gate: str = "sigmoid"
    shortcut: str = "batch"  # or "given", "plain" or "none"
    relu: bool = True


FULL = Case(gate="sigmoid_x2")
BARE = Case(se="bare", shortcut="none")
REPRESENTATIVE = (FULL, Case(norm="given", gate="tanh", shortcut="plain"), BARE)

GATES = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
GATES["hard_sigmoid"] = lambda x: (x / 6 + 0.5).clamp(0, 1)  # the gradient of PyTorch's has float32's 1/6
GATES |= {"sigmoid_x2": lambda x: 2 * torch.sigmoid(x), "hard_sigmoid_x2": lambda x: (x / 3 + 1).clamp(0, 2)}


def random_inputs(case, shape=(3, 8, 5, 4), dtype=torch.float64, layout=torch.channels_last, of_parameters=None):
    """The tensors of a case, by the names of their gradients, and dy."""
    torch.manual_seed(0)
    c, k = shape[1], 5
    of_parameters = of_parameters or (dtype if dtype == torch.float64 else torch.float32)
    inputs = {"u": 1.5 * torch.randn(shape) + torch.randn(c, 1, 1)}
    if case.norm != "none":
        inputs |= {"weight": torch.rand(c) + 0.5, "bias": torch.randn(c)}
    if case.se != "none":
        inputs |= {"fc1": torch.randn(k, c) / c**0.5, "fc2": torch.randn(c, k)}
    if case.se == "biased":
        inputs |= {"bias1": torch.rand(k), "bias2": torch.randn(c)}
    if case.shortcut != "none":
        inputs["shortcut"] = torch.randn(shape) + torch.randn(c, 1, 1)
    if case.shortcut in ("batch", "given"):
        inputs |= {"s_weight": torch.rand(c) + 0.5, "s_bias": torch.randn(c)}
    inputs = {name: x.to(dtype if x.dim() == 4 else of_parameters) for name, x in inputs.items()}
    for name in inputs.keys() & {"u", "shortcut"}:
        inputs[name] = inputs[name].to(memory_format=layout)
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    inputs |= zip(("mean", "var", "s_mean", "s_var"), (torch.rand(4, c) + 0.5).to(of_parameters), strict=True)
    # A rounding may decide on which side of a ReLU's corner a value is; nothing may depend on that.
    before_relu = formula(replace(case, relu=False), in_double(inputs))
    return inputs | {"dy": (torch.randn(shape) * (before_relu.abs() > 1e-3)).to(dtype).to(memory_format=layout)}


def in_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()}


def formula(case: Case, x: dict[str, Tensor]) -> Tensor:
    """What the operator is to compute, in plain arithmetic."""

    def normalized(u: Tensor, kind: str, prefix: str = "") -> Tensor:
        if kind in ("none", "plain"):
            return u
        mean, var = x[f"{prefix}mean"][:, None, None], x[f"{prefix}var"][:, None, None]
        if kind == "batch":
            mean = u.mean((0, 2, 3), keepdim=True)
            var = (u - mean).square().mean((0, 2, 3), keepdim=True)
        weight, bias = x[f"{prefix}weight"][:, None, None], x[f"{prefix}bias"][:, None, None]
        return (u - mean) / (var + EPS).sqrt() * weight + bias

    y = normalized(x["u"], case.norm)
    if case.se != "none":
        hidden = (y.mean((2, 3)) @ x["fc1"].T + x.get("bias1", 0)).clamp(min=0)
        gate = GATES[case.gate](hidden @ x["fc2"].T + x.get("bias2", 0))
        y = gate[:, :, None, None] * y
    if case.shortcut != "none":
        y = y + normalized(x["shortcut"], case.shortcut, "s_")
    return y.clamp(min=0) if case.relu else y


def tail(case: Case, x: dict[str, Tensor]) -> Tail:
    def norm(kind: str, prefix: str = "") -> Norm | None:
        if kind in ("none", "plain"):
            return None
        given = (x[f"{prefix}mean"], x[f"{prefix}var"]) if kind == "given" else (None, None)
        return Norm(x[f"{prefix}weight"], x[f"{prefix}bias"], *given, eps=EPS)

    excitation = None
    if case.se != "none":
        excitation = Excitation(x["fc1"], x["fc2"], x.get("bias1"), x.get("bias2"), case.gate)
    return residual_tail(x["u"], norm(case.norm), excitation, x.get("shortcut"), norm(case.shortcut, "s_"), case.relu)


def gradients(y: Tensor, inputs: dict[str, Tensor], dy: Tensor) -> dict[str, Tensor]:
    names = [name for name, x in inputs.items() if x.requires_grad]
    return dict(zip(names, torch.autograd.grad(y, [inputs[name] for name in names], dy), strict=True))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    assert expected.isfinite().all()
    limits = {"rtol": tolerance, "atol": tolerance * (expected.abs().max().item() or 1)}
    torch.testing.assert_close(actual.detach().double(), expected.detach(), **limits, msg=lambda m: f"{what}: {m}")


def assert_matches_formula(case: Case, inputs: dict[str, Tensor], tolerance: float | None = None) -> None:
    tolerance = tolerance or TOLERANCES[inputs["u"].dtype]
    exact = in_double(inputs)
    y, expected = tail(case, inputs).y, formula(case, exact)
    found = {"y": y} | gradients(y, inputs, inputs["dy"])
    expected = {"y": expected} | gradients(expected, exact, exact["dy"])
    for name, value in found.items():
        assert value.dtype == inputs.get(name, inputs["u"]).dtype
        assert_close(value, expected[name], tolerance, f"y, or gradient of {name}")


@pytest.mark.quick_every(4)
@pytest.mark.parametrize(("norm", "shortcut", "relu"), product(NORMS, SHORTCUTS, (True, False)))
def test_every_combination(norm, shortcut, relu):
    with_se = [Case(norm, *rest, shortcut, relu) for rest in product(("bare", "biased"), GATES)]
    for case, layout in product((Case(norm, "none", shortcut=shortcut, relu=relu), *with_se), LAYOUTS):
        assert_matches_formula(case, random_inputs(case, layout=layout))


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("case", [FULL, BARE], ids=["full", "bare"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_dtypes_and_shapes(dtype, shape, case):
    for layout, of_parameters in product(LAYOUTS, (None, dtype)):
        assert_matches_formula(case, random_inputs(case, shape, dtype, layout, of_parameters))


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
def test_memory_of_inputs(case):
    inputs = random_inputs(case)
    u, dy, shortcut = inputs["u"].detach(), inputs["dy"], inputs.get("shortcut", inputs["u"]).detach()
    sliced = torch.randn(3, 8, 10, 8, dtype=u.dtype)[:, :, ::2, 1::2].copy_(u)
    transposed = u.transpose(2, 3).contiguous().transpose(2, 3)
    some_channels = torch.randn(3, 16, 5, 4, dtype=u.dtype).to(memory_format=torch.channels_last)[:, 3:11].copy_(u)
    for own in (u, u.contiguous(), sliced, transposed, some_channels):
        changed = inputs | {"u": own.detach().requires_grad_()}
        if case.shortcut != "none":
            changed["shortcut"] = shortcut.contiguous().requires_grad_()
        changed["weight"] = inputs["weight"].detach().repeat_interleave(2)[::2].requires_grad_()
        changed["fc1"] = inputs["fc1"].detach().T.contiguous().T.requires_grad_()
        assert_matches_formula(case, changed)
        assert tail(case, changed).y.is_contiguous(memory_format=LAYOUTS[own is u])
        for other in (dy.contiguous(), dy.transpose(2, 3).contiguous().transpose(2, 3)):
            assert_matches_formula(case, changed | {"dy": other})
        assert_matches_formula(replace(case, relu=False), changed | {"dy": dy[:, :, :1, :1].expand_as(u)})


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("shape", [(4, 16, 7, 7), (2, 64, 48, 48)], ids=str)
def test_large_means_with_small_variances(shape, layout):
    """Float32 keeps a mean of 1000 to 0.003 deviations, its sum to a few times that; squares would lose everything."""
    inputs = random_inputs(FULL, shape, torch.float32, layout)
    for name in ("u", "shortcut"):
        inputs[name] = (1000 + 0.01 * torch.randn(shape)).to(memory_format=layout).requires_grad_()
    inputs["dy"] *= formula(replace(FULL, relu=False), in_double(inputs)).abs() > 0.1
    assert_matches_formula(FULL, inputs, tolerance=0.02)
    u = inputs["u"].detach()
    exact = u.double().var((0, 2, 3), correction=0)
    assert_close(tail(FULL, inputs).statistics.var_C, exact, 5e-3, "var")
    naive = u.square().mean((0, 2, 3)) - u.mean((0, 2, 3)).square()
    assert (naive - exact).abs().mean() > 10 * exact.mean()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_statistics_of_the_batch(dtype, layout):
    inputs = random_inputs(FULL, (3, 8, 9, 7), dtype, layout)
    found = tail(FULL, inputs)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for name, (mean, *variances) in (("u", found.statistics), ("shortcut", found.shortcut_statistics)):
        x = inputs[name].detach().double()
        assert_close(mean, x.mean((0, 2, 3)), tolerance)
        for correction, variance in enumerate(variances):
            assert_close(variance, x.var((0, 2, 3), correction=correction), tolerance)
    assert tail(Case(norm="given", shortcut="given"), inputs)[1:] == (None, None)


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
def test_gradcheck(case):
    inputs = random_inputs(case, (2, 3, 3, 2))
    leaves = {name: x for name, x in inputs.items() if x.requires_grad}
    assert torch.autograd.gradcheck(
        lambda *values: tail(case, inputs | dict(zip(leaves, values, strict=True))).y, list(leaves.values())
    )


class Calls(TorchDispatchMode):
    """The calls of the operators: (name, arguments)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[object, ...]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "senet":
            self.found.append((function._opname, args))
        return function(*args, **(kwargs or {}))


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("case", [*REPRESENTATIVE, replace(REPRESENTATIVE[1], relu=False)], ids=str)
@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain"])
def test_opcheck(case, plain, monkeypatch):
    if plain:
        monkeypatch.setattr(operators, "is_compiled", lambda dtype: False)
    inputs = random_inputs(case, dtype=torch.float32)
    with Calls() as calls:
        tail(case, inputs).y.backward(inputs["dy"])
    twice = case.shortcut == "batch"
    assert [name for name, _ in calls.found] == ["moments", *["moments"] * twice, "apply", "sums", "gradients"]
    for name, args in calls.found:
        values = [x.detach() if isinstance(x, Tensor) else x for x in args]
        values = tuple([v.detach() for v in x] if isinstance(x, list | tuple) else x for x in values)
        assert set(torch.library.opcheck(getattr(torch.ops.senet, name), values).values()) == {"SUCCESS"}


@pytest.mark.slow
def test_compile_and_checkpoint():
    inputs = random_inputs(FULL, dtype=torch.float32)

    def doubled(x: dict[str, Tensor]) -> Tensor:
        return tail(FULL, x | {"u": x["u"] * 2}).y

    expected = doubled(inputs)
    expected_gradients = gradients(expected, inputs, inputs["dy"])
    for y in (torch.compile(doubled, fullgraph=True)(inputs), checkpoint(doubled, inputs, use_reentrant=False)):
        assert_close(y, expected.double(), 1e-6)
        for name, gradient in gradients(y, inputs, inputs["dy"]).items():
            assert_close(gradient, expected_gradients[name].double(), 1e-6, name)


@pytest.mark.parametrize(
    ("shortcut", "relu", "expected"),
    [
        *[("batch", True, {"u", "shortcut", "y"}), ("given", True, {"u", "shortcut", "y"}), ("none", True, {"u"})],
        *[("given", False, {"u", "shortcut"}), ("plain", True, {"u", "y"}), ("plain", False, {"u"})],
    ],
)
def test_what_is_saved_for_backward(shortcut, relu, expected):
    case = Case(shortcut=shortcut, relu=relu)
    inputs = random_inputs(case)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        y = tail(case, inputs).y
    maps = {x.data_ptr(): name for name, x in (inputs | {"y": y}).items()}
    assert sorted(maps[x.data_ptr()] for x in saved if x.numel() >= y.numel()) == sorted(expected)


U, VECTOR = torch.randn(2, 6, 4, 4), torch.ones(6)
NORM, FC1, FC2 = Norm(VECTOR, VECTOR), torch.ones(3, 6), torch.ones(6, 3)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"u": U[0]}, r"^u is torch.float32 of shape \(6, 4, 4\)"),
        ({"u": U.long()}, "^u is torch.int64"),
        ({"shortcut": U[:1]}, r"^shortcut is .* shape \(1, 6, 4, 4\)"),
        ({"shortcut": U.double()}, "^shortcut is torch.float64"),
        ({"shortcut_norm": NORM}, "^shortcut_norm has no effect"),
        ({"norm": Norm(VECTOR[:5], VECTOR)}, r"^norm.weight is of shape \(5,\); expected \(6,\)"),
        ({"norm": Norm(VECTOR, VECTOR, VECTOR[:5], VECTOR)}, "^norm.mean"),
        ({"norm": Norm(VECTOR, VECTOR, VECTOR)}, "^norm has one of mean and var"),
        ({"shortcut": U, "shortcut_norm": Norm(VECTOR, VECTOR[:5])}, "^shortcut_norm.bias"),
        ({"excitation": Excitation(FC1[:, :5], FC2)}, r"^excitation.fc1 is of shape \(3, 5\); expected \(3, 6\)"),
        ({"excitation": Excitation(FC1, FC2, VECTOR, VECTOR)}, "^excitation.bias1"),
        ({"excitation": Excitation(FC1, FC2, VECTOR[:3], VECTOR[:3])}, "^excitation.bias2"),
        ({"excitation": Excitation(FC1, FC2, gate="swish")}, "^excitation.gate is 'swish'; expected one of sigmoid"),
        ({"u": U[:1, :, :1, :1], "norm": NORM}, "^u is .*more than one value"),
        ({"norm": Norm(VECTOR.to("meta"), VECTOR)}, "^norm.weight is on meta; expected cpu"),
        ({"u": U[:, :0]}, "^u is empty"),
        ({"u": U[:, :, :0]}, "^u is empty"),
        ({"u": U.to(torch.float8_e4m3fn)}, "^u is"),
        ({"shortcut": U.to("meta")}, "^shortcut"),
    ],
)
def test_arguments_that_do_not_fit(changed, match):
    with pytest.raises(SenetError, match=match):
        residual_tail(**{"u": U, **changed})


def test_defaults_of_a_norm():
    y = residual_tail(U, Norm(None, None), relu=False).y
    assert_close(y, F.batch_norm(U.double(), None, None, training=True), 1e-6)
    assert_close(residual_tail(U, relu=True).y, U.double().relu(), 1e-12)
