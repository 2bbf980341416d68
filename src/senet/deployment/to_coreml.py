"""Core ML: an .mlpackage folder for Apple's systems, which any system writes and only Apple's compute.

Source: https://apple.github.io/coremltools/docs-guides/source/convert-pytorch-workflow.html.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.data.preprocessing import Preprocessing
from senet.deployment.config import ExportConfig
from senet.deployment.graph import INPUT, OUTPUT, ExportGraph
from senet.deployment.metadata import KEY, as_text
from senet.errors import SenetError, first_line
from senet.quiet import quiet

PROBABILITIES = "classLabel_probs"
"""The output of a classifier that maps class names to probabilities, as coremltools names it."""


class FromPicture(nn.Module):
    """A network that takes a picture as Core ML hands it over, and returns probabilities beside the logits.

    Args:
        network: takes normalized images.
        preprocessing: how it wants them normalized.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(each, dtype=torch.float64) for each in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, -1, 1, 1))
        self.register_buffer("bias", (-mean / std).float().view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB from 0 to 255 as float32 (N, 3, H, W) -> logits and probabilities (N, classes)."""
        logits = self.network(images * self.scale + self.bias)
        return logits, logits.softmax(1)


def write(graph: ExportGraph, path: Path, config: ExportConfig, metadata: Any, calibration: Any) -> None:
    """Write an .mlpackage folder, see `senet.deployment.targets.Format`."""
    program = portable(graph if not config.preprocess else from_picture(graph))
    with quiet():
        model = converted(program, config, metadata["class_names"])
        if config.precision == "int8_weights":
            model = with_int8_weights(model)
        model.user_defined_metadata[KEY] = as_text(metadata)
        model.short_description = f"{metadata['source']['network']}, exported by senet"
        model.save(str(path))


def from_picture(graph: ExportGraph) -> ExportGraph:
    """Return what takes a picture in Core ML's order of axes, in place of what takes pixels (N, H, W, 3)."""
    module = FromPicture(graph.network, graph.preprocessing).eval()
    batch, height, width, channels = graph.example.shape
    return replace(graph, module=module, example=torch.zeros(batch, channels, height, width))


def portable(graph: ExportGraph) -> torch.export.ExportedProgram:
    """Return the program of a network without the operators that coremltools lacks and that are made of others."""
    operators = torch.ops.aten
    recorded = graph.program()
    program: torch.export.ExportedProgram = recorded.run_decompositions({operators.channel_shuffle.default: shuffled})
    for node in list(program.graph.nodes):
        if node.target is operators.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    return program


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Shuffle channels between groups: what `torch.channel_shuffle` does, (N, C, H, W)."""
    n, channels, height, width = x.shape
    return x.reshape(n, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


def converted(program: torch.export.ExportedProgram, config: ExportConfig, class_names: list[str] | None) -> Any:
    """Return a program as a coremltools model: one that takes a picture is a classifier if its classes have names.

    Raises:
        SenetError: Core ML lacks one of its operators.
    """
    import coremltools as ct

    (name,) = program.graph_signature.user_inputs
    shape = next(tuple(node.meta["val"].shape) for node in program.graph.nodes if node.name == name)
    takes = ct.ImageType(name=INPUT, shape=shape) if config.preprocess else ct.TensorType(name=INPUT, shape=shape)
    outputs = program.graph_signature.user_outputs
    classifier = None
    if config.preprocess and class_names is not None:
        classifier = ct.ClassifierConfig(class_names, predicted_probabilities_output=outputs[1])
    # iOS 15 is the first system with such programs, 16 the first with weights of 8 bits. From 16 on coremltools makes
    # inputs and outputs of fp16 half precision as well, and then fails for a classifier.
    try:
        model = ct.convert(
            program,
            inputs=[takes],
            classifier_config=classifier,
            compute_precision=ct.precision.FLOAT16 if config.precision == "fp16" else ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16 if config.precision == "int8_weights" else ct.target.iOS15,
            skip_model_load=True,
        )
    except Exception as error:  # of many kinds
        raise SenetError(f"the network cannot be exported to Core ML: {first_line(error)}") from error
    return renamed(model)


def renamed(model: Any) -> Any:
    """Return a model whose outputs have our names, where coremltools takes those of layers."""
    import coremltools as ct

    spec = model.get_spec()
    arrays = [each.name for each in spec.description.output if each.type.WhichOneof("Type") == "multiArrayType"]
    for old, new in zip(arrays, (OUTPUT, PROBABILITIES), strict=False):
        ct.utils.rename_feature(spec, old, new, rename_inputs=False)
    return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def with_int8_weights(model: Any) -> Any:
    """Return a model whose weights are stored in 8 bits, symmetric, one scale for each output channel."""
    from coremltools.optimize import coreml

    how = coreml.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
    return coreml.linear_quantize_weights(model, coreml.OptimizationConfig(global_config=how))


def open_file(path: Path) -> tuple[Any, Any]:
    """Say where the format is computed, see `senet.deployment.targets.Format`."""
    raise SenetError(
        f"{path} is computed by Core ML, on Apple's systems only; open it in Xcode, or export to onnx as well"
    )
