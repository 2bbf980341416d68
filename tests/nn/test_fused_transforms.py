"""What else than one backward pass a training network is used for: fused by default, it must give what layers give."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, func, nn
from torch.autograd import forward_ad
from torch.utils import checkpoint

from networks import randomize
from senet.models.resnet import cifar_resnet
from senet.nn import fused
from senet.nn.block import SEBlock, SEOptions
from senet.nn.fused import set_fused


@pytest.fixture(params=["small", "large"], autouse=True)
def size(request, monkeypatch) -> None:
    """Whether all maps count as small ones or as large ones."""
    for name in ("MIN_FUSED_NUMEL", "MIN_FUSED_NUMEL_SE"):
        monkeypatch.setattr(fused, name, {} if request.param == "large" else {"cpu": 10**9})


def twins() -> tuple[nn.Module, nn.Module]:
    """The same network, fused as by default and not."""
    torch.manual_seed(0)
    model = cifar_resnet(8, se=SEOptions(reduction=4)).double().train()
    randomize(model)
    twin = copy.deepcopy(model)
    set_fused(twin, False)
    return model, twin


def images(seed: int = 0) -> Tensor:
    return torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-8, msg=lambda text, name=name: name + text)


def test_gradient_penalty():
    model, twin = twins()
    for one in (model, twin):
        x = images().requires_grad_()
        (gradient,) = torch.autograd.grad(one(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
    assert_same(gradients(model), gradients(twin))


def test_many_gradients_at_once():
    found = []
    for one in twins():
        x = images().requires_grad_()
        y = one(x)[:, :2]
        many = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
        found.append(torch.autograd.grad(y, x, many, is_grads_batched=True)[0])
    torch.testing.assert_close(*found)


def test_per_sample_gradients():
    found = []
    for one in twins():
        for module in one.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

        def loss(parameters, image, one=one):
            return func.functional_call(one, parameters, (image[None],)).square().sum()

        parameters = {name: p.detach() for name, p in one.named_parameters()}
        found.append(func.vmap(func.grad(loss), in_dims=(None, 0))(parameters, images()))
    assert_same(*found)


def test_forward_mode():
    found = []
    for one in twins():
        with forward_ad.dual_level():
            y = one(forward_ad.make_dual(images(), images(1)))
            found.append(forward_ad.unpack_dual(y).tangent)
    torch.testing.assert_close(*found)


def test_tensors_in_place_of_parameters():
    """As nn.DataParallel and networks that compute weights set them."""
    model, twin = twins()
    for one in (model, twin):
        for module in list(one.modules()):
            if isinstance(module, nn.BatchNorm2d | nn.Conv2d):
                weight = module.weight
                del module.weight
                module.weight = weight * 2
        one(images()).square().sum().backward()
    names = [name for name, p in model.named_parameters() if p.grad is not None]
    assert names
    assert_same({n: model.get_parameter(n).grad for n in names}, {n: twin.get_parameter(n).grad for n in names})


def test_selective_checkpointing_of_products():
    model, twin = twins()
    kept = [torch.ops.aten.convolution.default, torch.ops.aten.addmm.default, torch.ops.aten.mm.default]
    for one in (model, twin):
        contexts = partial(checkpoint.create_selective_checkpoint_contexts, kept)
        y = checkpoint.checkpoint(one, images(), use_reentrant=False, context_fn=contexts)
        y.square().sum().backward()
    assert_same(gradients(model), gradients(twin))


def test_gradients_have_the_strides_of_the_weights():
    model, _ = twins()
    model.to(memory_format=torch.channels_last)
    model(images().to(memory_format=torch.channels_last)).square().sum().backward()
    for p in model.parameters():
        assert p.grad.stride() == p.stride()


def test_a_nan_reaches_the_same_gradients():
    model, twin = twins()
    x = images()
    x[1, 0, 3, 3] = torch.nan
    for one in (model, twin):
        one(x).sum().backward()
        assert any(isinstance(module, SEBlock) for module in one.modules())
    for name, p in model.named_parameters():
        assert torch.equal(p.grad.isnan(), twin.get_parameter(name).grad.isnan()), name
