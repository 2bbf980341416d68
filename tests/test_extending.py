"""Gates and blocks from another package, as docs/extending.md says: the page's own code, and what follows from it."""

import copy
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import senet
from senet import SEOptions
from senet.cli.training import summary
from senet.costs import cost
from senet.errors import SenetError
from senet.models.catalog import CARDS
from senet.nn import fused
from senet.nn.block import EXCITATIONS, register_excitation
from senet.nn.fused import set_fused
from senet.ops.gates import GATES
from senet.recipes import RECIPES, get_recipe
from senet.training.run import RunFolder
from senet.weights.reading import read_description

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
SOURCES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
MODULE = "\n\n".join(source for source in SOURCES if source.startswith("# my_blocks.py"))
PROGRAM = "\n\n".join(source for source in SOURCES if not source.startswith("# my_blocks.py"))
NAME = "cifar_se_resnet20"


@pytest.fixture(scope="module", autouse=True)
def my_blocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module of the page, imported from a folder as another package's is; afterwards nobody knows its networks."""
    kept = [(table, dict(table._entries)) for table in (CARDS, RECIPES)]
    folder = tmp_path_factory.mktemp("package")
    (folder / "my_blocks.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    import my_blocks

    yield my_blocks
    for table, entries in kept:
        table._entries = entries


@pytest.fixture(scope="module")
def ran(my_blocks: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the page's program leaves, in a folder of its own."""
    space = {"folder": tmp_path_factory.mktemp("page"), "__name__": "program"}
    torch.manual_seed(0)
    exec(compile(PROGRAM, str(PAGE), "exec"), space)
    return space


def eca_network(**options: object) -> torch.nn.Module:
    torch.manual_seed(1)
    return senet.create_model(NAME, num_classes=10, se=SEOptions(excitation="eca", **options))


def test_the_page_runs(ran, my_blocks):
    assert ran["y"].shape == (2, 64, 14, 14)
    assert [len(record.mean) for record in ran["recording"].blocks] == [1] * 9
    first = ran["recording"].blocks[0]
    assert (first.block.low, first.block.high) == (0, 2)
    assert {type(b) for b in senet.nn.attached.attached_blocks(ran["network"]).values()} == {my_blocks.ECA}


def test_the_network_and_the_recipe_of_the_page_are_known(my_blocks):
    model = senet.create_model("my_se_resnet8", se=SEOptions(excitation="eca"))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert senet.list_models("my_*") == ["my_resnet8", "my_se_resnet8"]
    config = get_recipe("digits_eca")  # it raises for an unknown name
    assert config.model.se.excitation == "eca"


def test_recorded_gates_are_those_of_the_block(my_blocks):
    model, x = eca_network(gate="raised_softsign").eval(), torch.randn(6, 3, 32, 32)
    seen = []
    block = model.layer1[0].se
    handle = block.register_forward_hook(lambda module, args, _: seen.append(module.compute_gate(args[0]).flatten(1)))
    recording = senet.record_excitations(model, [x])
    handle.remove()
    torch.testing.assert_close(
        recording.blocks[0].overall_mean, seen[-1].double().mean(0), rtol=1e-5, atol=1e-6, check_dtype=False
    )


def test_its_cost_is_counted(my_blocks):
    side = (8, 8)
    block = my_blocks.ECA(64, SEOptions(excitation="eca"))
    assert (block.conv.kernel_size, block.multiply_adds(side)) == ((3,), 64 * 3)
    with_eca, plain = (cost(m) for m in (eca_network(), senet.create_model("cifar_resnet20", num_classes=10)))
    assert with_eca.parameters - plain.parameters == 3 * 3 + 3 * 3 + 3 * 3


@pytest.mark.slow
def test_a_saved_model_names_the_module_that_it_needs(ran, tmp_path):
    folder = ran["folder"] / "eca"
    described = json.loads((folder / "config.json").read_text())
    assert described["requires"] == ["my_blocks"]
    assert described["model"]["se"]["excitation"] == "eca"
    code = f"import senet; senet.from_pretrained({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    (sentence,) = [line for line in done.stderr.splitlines() if "Error: " in line]
    assert "config.json needs the module my_blocks, which is not installed" in sentence


@pytest.mark.parametrize("options", [{"reduction": 8}, {"squeeze": "max"}, {"bias": False}])
def test_options_without_effect_are_refused(options):
    (name, value) = next(iter(options.items()))
    with pytest.raises(SenetError, match=rf"^{name} is {value!r}, which has no effect on the excitation 'eca'$"):
        SEOptions(excitation="eca", **options)


def test_weights_of_another_excitation_are_refused(tmp_path):
    senet.save_pretrained(senet.create_model(NAME), tmp_path / "se")
    with pytest.raises(SenetError, match=r"has weights for se.excitation='se', but the model has 'eca'"):
        senet.load_weights(eca_network(), tmp_path / "se")


def test_names_are_given_once_and_builders_build_blocks(monkeypatch):
    monkeypatch.setattr(EXCITATIONS, "_entries", dict(EXCITATIONS._entries))
    with pytest.raises(SenetError, match=r"'eca' is registered already, by my_blocks"):
        register_excitation("eca", lambda channels, options: None)
    with pytest.raises(SenetError, match=r"^options is 'gate'; expected one of reduction, squeeze, bias"):
        register_excitation("other", lambda channels, options: None, options=("gate",))
    register_excitation("none", lambda channels, options: None)
    with pytest.raises(SenetError, match="'none' builds a NoneType, no ExcitationBlock"):
        SEOptions(excitation="none")
    with pytest.raises(SenetError, match=r"^excitation is 'cbam'; expected one of se"):
        SEOptions(excitation="cbam")


def steps(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Two steps of training in double precision: outputs, gradients, statistics."""
    found = []
    for _ in range(2):
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        found += [y.detach(), *(p.grad.clone() for p in model.parameters()), *(b.clone() for b in model.buffers())]
    return found


@pytest.mark.parametrize("how", [True, False])
def test_a_gate_of_ones_own_trains_fused(how):
    """Against the plain layers; the operator computes this gate in PyTorch."""
    torch.manual_seed(0)
    options = SEOptions(gate="raised_softsign", reduction=4)
    model = senet.create_model(NAME, num_classes=10, se=options).double().train()
    twin = senet.create_model(NAME, num_classes=10, se=options).double().train()
    twin.load_state_dict(model.state_dict())
    set_fused(model, how)
    set_fused(twin, False)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for actual, expected in zip(steps(model, x), steps(twin, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_inference_takes_them(my_blocks):
    model, x = eca_network(gate="raised_softsign").eval(), torch.randn(2, 3, 32, 32)
    optimized = senet.optimize_for_inference(model, backend="eager")
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-4)


def test_inserted_blocks_are_saved_too(tmp_path):
    model, x = senet.create_model("timm/resnet18", num_classes=5), torch.randn(2, 3, 64, 64)
    report = senet.insert_se(model, SEOptions(excitation="eca", gate="sigmoid"))
    assert report.options.gate == "sigmoid_x2"
    assert report.multiply_adds == sum(
        model.get_submodule(f"{s.module}.se").multiply_adds(s.side) for s in report.sites
    )
    for name in report.parameters:
        torch.nn.init.normal_(model.get_parameter(name))
    senet.save_pretrained(model, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["requires"] == ["my_blocks"]
    with torch.no_grad():
        assert torch.equal(senet.from_pretrained(tmp_path / "model")(x), model.eval()(x))


def test_a_gate_without_a_slope_runs_unfused_and_is_copied_by_name(monkeypatch):
    monkeypatch.setattr(GATES, "_entries", dict(GATES._entries))
    for name in ("unchecked_tail", "excited_sum"):
        monkeypatch.setattr(fused, name, lambda *_: pytest.fail("it ran fused"))
    senet.register_gate(senet.Gate(name="sine", function=lambda logits: 1 + logits.sin(), low=0, high=2, one_at=0))
    model = senet.create_model(NAME, num_classes=10, se=SEOptions(gate="sine")).train()
    set_fused(model, True)
    x = torch.randn(2, 3, 16, 16)
    steps(model, x)
    twin = pickle.loads(pickle.dumps(model.eval()))
    assert torch.equal(twin(x), model(x))
    del GATES._entries["sine"]
    with pytest.raises(SenetError, match=r"^gate is 'sine'; expected one of sigmoid"):
        copy.deepcopy(model)


class WithoutWeights(senet.ExcitationBlock):
    """Gates from the means of neighborhoods, one for each position: nothing in it is trained."""

    logits_layer = "gather"

    def __init__(self, channels: int, options: SEOptions) -> None:
        super().__init__(options.gate)
        self.channels = channels
        self.gather = torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def compute_logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.gather(x)

    def multiply_adds(self, side) -> int:
        return 0


def test_a_block_without_weights_is_saved_and_read_but_never_the_identity(monkeypatch, tmp_path):
    monkeypatch.setattr(EXCITATIONS, "_entries", dict(EXCITATIONS._entries))
    register_excitation("gather", WithoutWeights)
    model = senet.create_model(NAME, num_classes=10, se=SEOptions(excitation="gather")).eval()
    x = torch.randn(2, 3, 32, 32)
    senet.save_pretrained(model, tmp_path / "gather")
    assert torch.equal(senet.from_pretrained(tmp_path / "gather")(x), model(x))
    found = senet.record_excitations(model, [x]).blocks[0]
    assert (found.block.low, found.block.high) == (0, 1)
    senet.save_pretrained(senet.create_model("cifar_resnet20"), tmp_path / "plain")
    said = "a WithoutWeights, whose layer 'gather' has no weight, cannot start at 1; choose another excitation"
    with pytest.raises(SenetError, match=f"is of a plain network, .* {said} in SEOptions$"):
        senet.load_weights(model, tmp_path / "plain")
    with pytest.raises(SenetError, match=said):
        senet.insert_se(senet.create_model("timm/resnet18"), SEOptions(excitation="gather"))


def test_a_run_names_the_module_that_it_needs(my_blocks, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(get_recipe("digits_eca"))
    assert run.read_config().model.se.excitation == "eca"
    code = f"from senet.training.run import RunFolder; RunFolder({str(run.path)!r}).read_config()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    (sentence,) = [line for line in done.stderr.splitlines() if "Error: " in line]
    assert "config.json needs the module my_blocks, which is not installed" in sentence


def test_what_a_program_registered_itself_is_said_to_be_missing(ran, tmp_path):
    path = tmp_path / "config.json"
    described = json.loads((ran["folder"] / "eca" / "config.json").read_text())
    described["requires"] = ["__main__"]
    path.write_text(json.dumps(described))
    read_description(path)  # known here, whoever registered it
    described["model"]["se"]["excitation"] = "unknown"
    path.write_text(json.dumps(described))
    with pytest.raises(SenetError, match=r"excitation is 'unknown'.*; the program that saved it registered"):
        read_description(path)


def test_what_is_no_recipe_is_refused(monkeypatch):
    monkeypatch.setattr(RECIPES, "_entries", dict(RECIPES._entries))

    @senet.register_recipe
    def nothing():
        pass

    with pytest.raises(SenetError, match=r"^the recipe nothing returns a NoneType, no TrainConfig$"):
        get_recipe("nothing")
    assert summary(nothing) == ""


def test_a_card_that_builds_no_network_is_refused(my_blocks, monkeypatch):
    monkeypatch.setattr(CARDS, "_entries", dict(CARDS._entries))
    card = senet.model_card("my_resnet8")
    senet.register_model(replace(card, name="linear", twin=None, build=lambda **_: torch.nn.Linear(1, 1)))
    with pytest.raises(SenetError, match=r"^the card of linear builds a Linear, which is no Network$"):
        senet.create_model("linear")
