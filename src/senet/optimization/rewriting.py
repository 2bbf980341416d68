"""Exact rewriting of a network for inference: BatchNorm into convolutions, the squeeze before the expansion.

A bottleneck ends in a 1x1 convolution, v = W h + c once its BatchNorm is folded, and the mean over positions commutes
with it: mean(v) = W mean(h) + c. So SE's gate comes from h, which has a quarter of the channels, and the first layer of
the excitation merges with W:

    gate(W2 relu((W1 W) mean(h) + W1 c + b1) + b2)

Source: design of the equations from arXiv:1709.01507v4, equations 2-4; linearity of the mean.
"""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from senet.errors import SenetError, first_line
from senet.nn.attached import attached, detach
from senet.nn.excitation import ExcitationBlock
from senet.nn.fused import excitation_of, has_hooks, set_fused
from senet.ops import Excitation
from senet.ops.gates import GATES


class EarlyGate(nn.Module):
    """The gate of an SE block after a 1x1 convolution, from the input of that convolution.

    Args:
        conv: the convolution, with BatchNorm folded into it.
        excitation: of the SE block.
    """

    def __init__(self, conv: nn.Conv2d, excitation: Excitation) -> None:
        super().__init__()
        merged = excitation.fc1.detach().flatten(1).double()
        bias = torch.zeros(len(merged), dtype=torch.float64, device=merged.device)
        bias = bias if excitation.bias1 is None else excitation.bias1.detach().double()
        if conv.bias is not None:
            bias = bias + merged @ conv.bias.detach().double()
        merged = merged @ conv.weight.detach().double().flatten(1)
        self.fc1 = one_by_one(merged, bias, conv.weight.dtype)
        fc2, bias2 = excitation.fc2.detach().flatten(1), excitation.bias2
        self.fc2 = one_by_one(fc2, None if bias2 is None else bias2.detach(), conv.weight.dtype)
        self.gate_name = excitation.gate
        self.gate = GATES[excitation.gate].function

    def forward(self, h: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C, 1, 1)."""
        return self.gate(self.fc2(self.fc1(h.mean((2, 3), keepdim=True)).relu()))

    def excitation(self) -> Excitation:
        """Return the two layers and the gate."""
        fc1, fc2 = self.fc1, self.fc2
        return Excitation(fc1.weight.flatten(1), fc2.weight.flatten(1), fc1.bias, fc2.bias, self.gate_name)


def one_by_one(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Conv2d:
    """Build a 1x1 convolution from a matrix (C_out, C_in) and a bias (C_out,)."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, device=weight.device, dtype=dtype)
    conv.weight = nn.Parameter(weight.to(dtype)[:, :, None, None], requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return conv


class Tracer(fx.Tracer):
    """Keeps SE blocks whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node of the graph."""
        return (
            isinstance(m, ExcitationBlock)
            or excitation_of(m) is not None
            or super().is_leaf_module(m, module_qualified_name)
        )


def rewrite(model: nn.Module) -> fx.GraphModule:
    """Return a copy of the model in evaluation mode with the same outputs and fewer, cheaper layers.

    Args:
        model: any network that torch.fx can trace.

    Raises:
        SenetError: it cannot be traced.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    set_fused(model, False)
    unfold_attached(model)
    try:
        graph = fx.GraphModule(model, Tracer().trace(model))
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if not any(True for _ in model.parameters()):
            name = getattr(model, "name", type(model).__name__)
            raise SenetError(
                f"{name} cannot be rewritten, for it is an exported file or a function; give the network that it was "
                "made of"
            ) from error
        raise SenetError(
            f"{type(model).__name__} cannot be rewritten, for torch.fx cannot trace it: {first_line(error)}"
        ) from error
    remove_identities(graph)
    fold_norms(graph)
    move_squeezes(graph)
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    return graph


def unfold_attached(model: nn.Module) -> None:
    """Make the blocks of `insert_se` layers of their own, next to the layers that run them."""
    for name, module in list(model.named_modules()):
        block = attached(module)
        if block is not None and fx.Tracer().is_leaf_module(module, name):
            detach(model, [name])
            layers = (block, module) if block.attached_at == "input" else (module, block)
            model.set_submodule(name, nn.Sequential(*layers))


def module_at(graph: fx.GraphModule, node: object) -> nn.Module | None:
    """Return the module that a node calls, if it calls one with one input."""
    if isinstance(node, fx.Node) and node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        return graph.get_submodule(str(node.target))
    return None


def convolution_at(graph: fx.GraphModule, node: object) -> nn.Conv2d | None:
    """Return the convolution that a node calls, if nothing else calls it and one node reads its output."""
    conv = module_at(graph, node)
    if type(conv) is nn.Conv2d and isinstance(node, fx.Node) and len(node.users) == 1:
        shared = [n for n in graph.graph.nodes if n.op == "call_module" and n.target == node.target]
        return conv if len(shared) == 1 else None
    return None


def convolution_before(graph: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, nn.Conv2d] | None:
    """Return the convolution whose output nothing but this node reads."""
    before = node.args[0]
    conv = convolution_at(graph, before)
    return None if conv is None or not isinstance(before, fx.Node) else (before, conv)


def remove_identities(graph: fx.GraphModule) -> None:
    """Remove layers that do nothing, such as timm's places for other layers: what is around them then meets."""
    for node in list(graph.graph.nodes):
        layer = module_at(graph, node)
        if type(layer) is nn.Identity and not has_hooks((layer,)):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def fold_norms(graph: fx.GraphModule) -> None:
    """Fold every BatchNorm after a convolution into it, in double precision."""
    for node in list(graph.graph.nodes):
        norm = module_at(graph, node)
        found = convolution_before(graph, node) if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) else None
        if found is None or norm is None or norm.running_mean is None:
            continue
        before, conv = found
        weight, bias = folded_values(conv, norm)
        folded = copy.copy(conv)
        folded._parameters = dict(conv._parameters)
        folded.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        folded.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
        graph.set_submodule(str(before.target), folded)
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)


def folded_values(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with its BatchNorm, in double precision."""
    names = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (None if x is None else x.double() for x in (getattr(norm, name) for name in names))
    own_bias = None if conv.bias is None else conv.bias.double()
    return fuse_conv_bn_weights(conv.weight.double(), own_bias, mean, var, float(norm.eps), weight, bias)  # type: ignore[arg-type]


def move_squeezes(graph: fx.GraphModule) -> None:
    """Compute the gate of every SE block after a 1x1 expansion from the input of that convolution."""
    for node in list(graph.graph.nodes):
        se = module_at(graph, node)
        excitation = None if se is None else excitation_of(se)
        found = None if excitation is None else convolution_before(graph, node)
        if excitation is None or found is None:
            continue
        before, conv = found
        pointwise = (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
        if not pointwise or conv.in_channels > conv.out_channels:
            continue
        graph.set_submodule(str(node.target), EarlyGate(conv, excitation))
        with graph.graph.inserting_before(before):
            gate = graph.graph.call_module(str(node.target), (before.args[0],))
        with graph.graph.inserting_after(before):
            scaled = graph.graph.call_function(torch.mul, (before, gate))
        node.replace_all_uses_with(scaled)
        graph.graph.erase_node(node)
