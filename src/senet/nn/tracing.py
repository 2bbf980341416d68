"""What torch.fx and TorchScript see of this library's modules.

torch.fx records a forward pass by running it on stand-ins for tensors, and TorchScript compiles what torch.fx recorded.
"""

from torch import fx, nn

from senet.errors import SenetError


def is_traced(x: object) -> bool:
    """Whether torch.fx is recording: x then stands for a tensor, and nothing may depend on its shape or its values."""
    return isinstance(x, fx.Proxy)


class ScriptTracer(fx.Tracer):
    """Records a module for TorchScript.

    Modules with `scripted_whole = True` are not traced into: they compute something else in training, which a trace
    could not express, and TorchScript can compile their code as it is.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node of the graph."""
        return getattr(m, "scripted_whole", False) or super().is_leaf_module(m, module_qualified_name)


def script_form(module: nn.Module) -> fx.GraphModule:
    """Return what `torch.jit.script` can compile in a module's place: the same layers under the same names.

    Raises:
        SenetError: torch.fx cannot trace the module.
    """
    try:
        return fx.GraphModule(module, ScriptTracer().trace(module), type(module).__name__)
    except fx.proxy.TraceError as error:
        raise SenetError(f"{type(module).__name__} cannot become TorchScript: {error}") from error
