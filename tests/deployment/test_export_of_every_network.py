"""Every network of the registry computes the same in ONNX Runtime, and one of each family in every runtime."""

import pytest
import torch

import senet
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


def network_with_statistics(name):
    """Return a network of which no BatchNorm is as it starts: with running statistics and weights of its own."""
    torch.manual_seed(0)
    network = senet.create_model(name, num_classes=10).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.normal_(module.bias, std=0.1)
    return network


@torch.no_grad()
@pytest.mark.parametrize(("to", "name"), slow_except({"cifar_se_resnet20"}, CASES))
def test_the_file_computes_what_the_network_does(to, name, tmp_path):
    size = 32 if senet.model_card(name).preprocessing.image_size == 32 else 96
    network = network_with_statistics(name)
    config = ExportConfig(to=to, image_size=(size, size))
    graph, path = build_graph(network, config), tmp_path / f"network{TARGETS[to].suffix}"
    metadata = describe(graph, config, source=name, name=name, class_names=None)
    format_ = TARGETS[to].load()
    format_.write(graph, path, config, metadata, None)
    run, _ = format_.open_file(path)
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    wanted = network(x)
    assert float((run(x)[0] - wanted).abs().max() / wanted.abs().max()) < 1e-5
