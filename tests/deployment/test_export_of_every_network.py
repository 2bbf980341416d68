"""Every network of the registry computes the same in ONNX Runtime, and one of each family in every runtime."""

import pytest
import torch

import senet
from kinds import images, settle, side_of
from senet.deployment.config import ExportConfig
from senet.deployment.graph import build_graph
from senet.deployment.metadata import describe
from senet.deployment.targets import TARGETS
from tiers import slow_except

RUNTIMES = ("onnx", "openvino", "torch_export")
SHALLOWEST = {}
for name in senet.list_models("*se*"):
    SHALLOWEST.setdefault(senet.model_card(name).family, name)
CASES = [("onnx", name) for name in senet.list_models()]
CASES += [(to, name) for to in RUNTIMES[1:] for name in SHALLOWEST.values()]
"""All slow: quick tests of what a file computes are in test_export.py."""


@torch.no_grad()
@pytest.mark.parametrize(("to", "name"), slow_except((), CASES))
def test_the_file_computes_what_the_network_does(to, name, tmp_path):
    torch.manual_seed(0)
    size, network = side_of(name), senet.create_model(name, num_classes=10)
    settle(network, images(4, size))  # as training leaves it: no layer enlarges rounding errors
    config = ExportConfig(to=to, image_size=(size, size))
    graph, path = build_graph(network, config), tmp_path / f"network{TARGETS[to].suffix}"
    metadata = describe(graph, config, source=name, name=name, class_names=None)
    format_ = TARGETS[to].load()
    format_.write(graph, path, config, metadata, None)
    run, _ = format_.open_file(path)
    x = images(3, size)
    wanted = network(x)
    assert float((run(x)[0] - wanted).abs().max() / wanted.abs().max()) < 1e-5
