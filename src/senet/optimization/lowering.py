"""A rewritten network for the kernels of `senet.ops.gate`: each SE block becomes a part of the passes around it.

Patterns, where only the gate needs more than the plain network; `conv` loses its bias, which the operator adds:

    h = relu(conv(...)); v = conv(h); relu(v * early gate of h + shortcut)     squeeze gives h, excite the rest
    v = conv(...);       relu(se(v) + shortcut)                                squeeze reads v, excite does the rest
    v = relu(conv(...)); se(v)                                                 squeeze gives v, excite scales

Sum, ReLU and the bias of a convolution in the shortcut are left out where there are none.
"""

import copy
import operator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from senet.nn.fused import excitation_of
from senet.ops import Excitation
from senet.ops.gate import excite, has_kernel, squeeze
from senet.optimization.rewriting import EarlyGate, convolution_at, module_at

SUMS: tuple[object, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
RELUS: tuple[object, ...] = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")


class Squeeze(nn.Module):
    """`senet.ops.gate.squeeze` with its weights.

    Args:
        excitation: its first layer.
        bias: of the convolution before; None for none.
        relu: whether a ReLU follows.
    """

    bias: Tensor | None
    fc1: Tensor
    bias1: Tensor

    def __init__(self, excitation: Excitation, bias: Tensor | None, relu: bool) -> None:
        super().__init__()
        fc1 = excitation.fc1.detach().flatten(1)
        self.relu = relu
        self.register_buffer("bias", bias)
        self.register_buffer("fc1", fc1)
        self.register_buffer("bias1", or_zeros(excitation.bias1, fc1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> parts of the hidden layer (N, P, K), and the map (N, C, H, W) that they come from."""
        return squeeze(x, self.bias, self.relu, self.fc1, self.bias1)


class Excite(nn.Module):
    """`senet.ops.gate.excite` with its weights.

    Args:
        excitation: its second layer and gate.
        bias: of the convolution before; None for none.
        shortcut_bias: of the shortcut's convolution; None for none.
        relu: whether a ReLU closes.
    """

    bias: Tensor | None
    shortcut_bias: Tensor | None
    fc2: Tensor
    bias2: Tensor

    def __init__(self, excitation: Excitation, bias: Tensor | None, shortcut_bias: Tensor | None, relu: bool) -> None:
        super().__init__()
        fc2 = excitation.fc2.detach().flatten(1)
        self.gate, self.relu = excitation.gate, relu
        self.register_buffer("bias", bias)
        self.register_buffer("shortcut_bias", shortcut_bias)
        self.register_buffer("fc2", fc2)
        self.register_buffer("bias2", or_zeros(excitation.bias2, fc2))

    def forward(self, v: Tensor, parts: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """(N, C, H, W), (N, P, K), (N, C, H, W) -> (N, C, H, W)."""
        return excite(v, parts, self.fc2, self.bias2, self.gate, self.bias, shortcut, self.shortcut_bias, self.relu)


def or_zeros(bias: Tensor | None, weight: Tensor) -> Tensor:
    """Return the bias of a layer, zeros for none."""
    return weight.new_zeros(len(weight)) if bias is None else bias.detach()


class Site(NamedTuple):
    """Where a gate scales a feature map.

    Args:
        end: the node whose output is scaled.
        v: the node that is scaled.
        source: the node whose mean the gate comes from.
        excitation: from that mean.
    """

    end: fx.Node
    v: fx.Node
    source: fx.Node
    excitation: Excitation


def lower(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a network that computes the same with the operators of `senet.ops.gate`, and shares the weights.

    Args:
        graph: of `senet.optimization.rewriting.rewrite`; unchanged, and so are blocks whose gate has no kernel.
    """
    lowered = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    for node in list(lowered.graph.nodes):
        site = early_site(lowered, node) or late_site(lowered, node)
        if site is not None and has_kernel(site.excitation.gate):
            lower_site(lowered, site)
    lowered.delete_all_unused_submodules()
    lowered.graph.lint()
    lowered.recompile()
    return lowered


def early_site(graph: fx.GraphModule, node: fx.Node) -> Site | None:
    """Return the site that ends in this product of a convolution and a gate from its input."""
    if node.op != "call_function" or node.target is not torch.mul:
        return None
    v, gate = node.args
    early = module_at(graph, gate)
    if not isinstance(early, EarlyGate) or convolution_at(graph, v) is None:
        return None
    return Site(node, v, gate.args[0], early.excitation())  # type: ignore[arg-type, union-attr]


def late_site(graph: fx.GraphModule, node: fx.Node) -> Site | None:
    """Return the site of an SE block that scales what its gate comes from: a convolution, or a ReLU after one."""
    se = module_at(graph, node)
    excitation = None if se is None else excitation_of(se)
    v = node.args[0] if excitation is not None else None
    if excitation is None or not isinstance(v, fx.Node):
        return None
    if convolution_at(graph, v) is None and relu_of_convolution(graph, v) is None:
        return None
    return Site(node, v, v, excitation)


def lower_site(graph: fx.GraphModule, site: Site) -> None:
    """Put the two operators in the place of the layers of a site."""
    excitation = site.excitation
    bias = None
    if convolution_at(graph, site.v) is not None:
        bias = take_bias(graph, site.v)
        if bias is not None and site.v is site.source:
            excitation = with_mean_of(bias, excitation)
    parts, h = insert_squeeze(graph, site, excitation)
    chain, shortcut = [site.end], None
    following = only_user(site.end)
    if following is not None and (shortcut := shortcut_of(following, site.end)) is not None:
        chain.append(following)
        following = only_user(following)
    relu = following is not None and is_relu(graph, following)
    if relu and following is not None:
        chain.append(following)
    shortcut_bias = None if shortcut is None else take_bias(graph, shortcut)
    name = f"excite_{site.end.name}"
    graph.add_submodule(name, Excite(excitation, bias, shortcut_bias, relu))
    inputs = (h if site.v is site.source else site.v, parts, *(() if shortcut is None else (shortcut,)))
    with graph.graph.inserting_before(chain[0] if shortcut is None else chain[1]):
        y = graph.graph.call_module(name, inputs)
    chain[-1].replace_all_uses_with(y)
    for node in reversed(chain):
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def insert_squeeze(graph: fx.GraphModule, site: Site, excitation: Excitation) -> tuple[fx.Node, fx.Node]:
    """Put the first operator after the source, or in the place of a ReLU that it is; return parts and map."""
    x = relu_of_convolution(graph, site.source)
    bias = None if x is None else take_bias(graph, x)
    name = f"squeeze_{site.end.name}"
    graph.add_submodule(name, Squeeze(excitation, bias, x is not None))
    with graph.graph.inserting_after(site.source):
        both = graph.graph.call_module(name, (site.source if x is None else x,))
    with graph.graph.inserting_after(both):
        parts = graph.graph.call_function(operator.getitem, (both, 0))
        h = graph.graph.call_function(operator.getitem, (both, 1))
    if x is not None:
        site.source.replace_all_uses_with(h)
        return parts, h
    return parts, site.source


def take_bias(graph: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """Take the bias from a convolution that only one node reads, and return it; None where there is none."""
    conv = convolution_at(graph, node)
    if conv is None or conv.bias is None:
        return None
    bare = copy.copy(conv)
    bare._parameters = {**conv._parameters, "bias": None}
    graph.set_submodule(str(node.target), bare)
    return conv.bias.detach()


def with_mean_of(bias: Tensor, excitation: Excitation) -> Excitation:
    """Return the excitation for a map that lacks this bias: its mean through the first layer becomes part of bias1."""
    bias1 = excitation.fc1.detach().flatten(1).double() @ bias.double()
    if excitation.bias1 is not None:
        bias1 = bias1 + excitation.bias1.detach().double()
    return excitation._replace(bias1=bias1.to(bias.dtype))


def only_user(node: fx.Node) -> fx.Node | None:
    """Return the node that reads this one, if there is only one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def shortcut_of(node: fx.Node, branch: fx.Node) -> fx.Node | None:
    """Return what a node adds to a branch, None if it is no such sum."""
    if node.op not in ("call_function", "call_method") or node.target not in SUMS or node.kwargs:
        return None
    if len(node.args) != 2 or node.args.count(branch) != 1:
        return None
    first, second = node.args
    in_place = node.target in (operator.iadd, "add_")
    other = second if first is branch else None if in_place else first  # the sum may not change a shortcut in place
    return other if isinstance(other, fx.Node) else None


def is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a ReLU, as a module, function or method."""
    if node.op == "call_module":
        return type(module_at(graph, node)) is nn.ReLU
    return node.op in ("call_function", "call_method") and node.target in RELUS


def relu_of_convolution(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the convolution before a ReLU, if the node is one and nothing else reads that."""
    before = node.args[0] if is_relu(graph, node) else None
    return before if isinstance(before, fx.Node) and convolution_at(graph, before) is not None else None
