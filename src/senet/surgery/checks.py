"""What must hold before and after SE blocks are put into a model."""

import torch
from torch import nn

from senet.errors import SenetError
from senet.nn.attached import attached, attached_blocks
from senet.nn.modes import eval_mode
from senet.surgery.dataflow import Dataflow, tensors
from senet.surgery.probe import call_model


def check_model(model: nn.Module) -> None:
    """Raise a SenetError for a model that cannot take blocks: scripted, compiled, wrapped, quantized, or no CNN."""
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise SenetError(f"{name} is scripted; put SE into the model that it was made from")
    if hasattr(model, "_orig_mod"):
        raise SenetError("the model is compiled; put SE into it first (model._orig_mod) and compile it afterwards")
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise SenetError(f"{name} wraps the model; put SE into it first (model.module) and wrap it afterwards")
    if any(".quantized" in type(m).__module__ for m in model.modules()):
        raise SenetError(f"{name} is quantized; put SE into the model that it was made from")
    inserted = len(attached_blocks(model))
    if inserted:
        raise SenetError(f"{name} has {inserted} SE blocks from insert_se already; senet.remove_se takes them out")
    if not any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules()):
        raise SenetError(f"{name} has no convolution; SE is for CNNs")


def check_has_values(model: nn.Module) -> None:
    """Raise a SenetError for a model on the meta device."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise SenetError(
            f"{type(model).__name__} is on the meta device, where blocks would have no values to start from; give it "
            "memory and its weights first (to_empty, load_state_dict), or use find_sites, which needs neither"
        )


def check_outputs(model: nn.Module, flow: Dataflow, equal: bool) -> None:
    """Raise a SenetError unless a model with blocks runs each of them once, and gives the outputs that it gave before.

    Args:
        model: with blocks.
        flow: of the model without them.
        equal: whether the outputs must be those of `flow`, bit for bit.
    """
    name = type(model).__name__
    times: dict[nn.Module, int] = dict.fromkeys(attached_blocks(model).values(), 0)

    def count(block: nn.Module, _: object, __: object) -> None:
        times[block] += 1

    handles = [block.register_forward_hook(count) for block in times]
    try:
        with eval_mode(model, layer_by_layer=True), torch.no_grad():
            outputs = call_model(model, flow.example_inputs)
    except Exception:  # whatever somebody's model may raise
        outputs = ()
    finally:
        for handle in handles:
            handle.remove()
    pairs = list(zip(tensors(flow.outputs), tensors(outputs), strict=False))
    if not pairs or (equal and not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)):
        raise SenetError(
            f"{name} does not run with blocks in it, or its outputs differ, with them or from run to run; leave "
            "modules out by where, or pass preserve_outputs=False"
        )
    sites = [(place, attached(module)) for place, module in model.named_modules()]
    wrong = [place for place, block in sites if block is not None and times[block] != 1]
    if wrong:
        raise SenetError(f"{name} does not run the block at {wrong[0]} exactly once; leave that module out by where")
