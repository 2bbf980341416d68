"""Networks of all kinds are exported as they compute, and what cannot be is said in one sentence."""

import os

import pytest
import torch
from PIL import Image
from torch import nn
from torch.torch_version import TorchVersion

import senet
from senet.cli import main
from senet.data.preprocessing import CIFAR
from senet.deployment import to_executorch
from senet.deployment.config import ExportConfig
from senet.deployment.exporting import written_whole
from senet.deployment.graph import build_graph
from senet.deployment.metadata import describe
from senet.errors import SenetError


class Small(nn.Module):
    """A network of one operator besides its layers.

    Args:
        operator: between them.
        channels: of the images.
    """

    def __init__(self, operator=torch.relu, channels=3):
        super().__init__()
        self.conv, self.operator = nn.Conv2d(channels, 4, 3), operator
        self.preprocessing, self.class_names = CIFAR.with_channels(channels), None

    def forward(self, x):
        return self.operator(self.conv(x)).mean((2, 3))


def outputs(model, config=None, size=32):
    graph = build_graph(model, config or ExportConfig())
    x = torch.randn(2, graph.preprocessing.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return graph.program().module()(x), x


@pytest.mark.parametrize("channels", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in (4, 12))])
def test_only_networks_of_color_images_take_pixels(channels):
    with pytest.raises(SenetError, match=rf"preprocess=True takes RGB pictures, but the network takes {channels} chan"):
        build_graph(Small(channels=channels), ExportConfig(preprocess=True))
    assert outputs(Small(channels=channels))[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("to", "suffix", "said"),
    [
        ("onnx", "onnx", "the network cannot be exported to ONNX: it lacks .*bessel_j0"),
        ("openvino", "xml", "the network cannot be exported to OpenVINO: it lacks .*special_bessel_j0"),
    ],
)
def test_an_operator_that_the_target_lacks_is_named(to, suffix, said, tmp_path):
    with pytest.raises(SenetError, match=said):
        senet.export(Small(torch.special.bessel_j0), tmp_path / f"a.{suffix}", to=to)
    assert not list(tmp_path.iterdir())


def test_options_are_checked_before_anything_is_written(tmp_path):
    for options, said in (
        ({"input_names": ["x"]}, "senet.export has no option 'input_names'; its options are to, "),
        ({"num_images": 0}, "num_images is 0; expected at least 1, or 'all'"),
        ({"image_size": (64, 64, 3)}, "image_size is .*; expected height and width in pixels"),
    ):
        with pytest.raises(SenetError, match=said):
            senet.export("cifar_se_resnet20", tmp_path / "a.onnx", **options)
    assert ExportConfig(image_size=64) == ExportConfig(image_size=(64, 64))
    assert not list(tmp_path.iterdir())


def test_a_network_that_depends_on_values_is_refused():
    with pytest.raises(
        SenetError, match=r"the network cannot be exported with dynamic batch, for torch\.export cannot"
    ):
        build_graph(Small(lambda x: x if x.sum() > 0 else -x), ExportConfig(rewrite=False)).program()


def test_a_target_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("senet.errors.find_spec", lambda name: None if name == "openvino" else name)
    with pytest.raises(ImportError, match=r"export to openvino needs openvino, which is not .*'senet\[openvino\]'"):
        senet.export("cifar_se_resnet20", tmp_path / "a.xml", to="openvino")


def test_a_run_folder_without_a_network(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "a.onnx")]) == 2
    assert "is neither a model folder" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()


def test_options_are_named_as_they_are_typed(tmp_path, capsys):
    assert main(["export", "cifar_se_resnet20", str(tmp_path / "a.onnx"), "--resize"]) == 2
    assert capsys.readouterr().err.startswith("senet: --resize has no effect without --preprocess, which")
    assert main(["export", "cifar_se_resnet20", str(tmp_path / "a.onnx"), "--int8", "--fp16"]) == 2
    assert "two precisions are asked for, fp16 and int8; name one" in capsys.readouterr().err


def test_the_network_stays_as_it_is():
    model = senet.create_model("cifar_resnet20").to(torch.bfloat16)
    senet.insert_se(model)
    assert model.training
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found, x = outputs(model)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        wanted = model.float().eval()(x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("rewrite", [True, False])
def test_what_is_exported_is_rewritten_or_not(rewrite):
    model = senet.from_pretrained("cifar_se_resnet20")
    graph = build_graph(model, ExportConfig(rewrite=rewrite))
    norms = [module for module in graph.module.modules() if isinstance(module, nn.BatchNorm2d)]
    assert bool(norms) is not rewrite
    fast = build_graph(senet.optimize_for_inference(model, backend="eager"), ExportConfig())
    assert torch.allclose(fast.module(x := torch.randn(1, 3, 32, 32)), model(x), rtol=1e-4, atol=1e-4)


def test_sizes_and_axes():
    model = senet.from_pretrained("cifar_se_resnet20")
    assert build_graph(model, ExportConfig(image_size=(40, 48))).shape == ("batch", 3, 40, 48)
    config = ExportConfig(dynamic=("height", "width"), batch_size=2)
    assert build_graph(model, config).shape == (2, 3, "height", "width")
    found, x = outputs(model, config, 48)
    torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-4)
    assert build_graph(model, ExportConfig(image_size=(40, 40))).preprocessing.resize == 40
    pixels = build_graph(model, ExportConfig(preprocess=True, resize=True))
    assert pixels.shape == ("batch", "height", "width", 3)


def test_an_output_appears_whole_or_not_at_all(tmp_path):
    def write(fail):
        with written_whole(tmp_path / "a.xml") as folder:
            (folder / "a.xml").write_text("graph")
            if fail:
                raise KeyboardInterrupt
            (folder / "a.bin").write_text("weights")

    with pytest.raises(KeyboardInterrupt):
        write(fail=True)
    assert not list(tmp_path.iterdir())
    write(fail=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a.xml", "a.bin"}


def test_other_files_are_not_opened(tmp_path):
    with pytest.raises(
        SenetError, match=r"a\.txt is no exported network; expected a file that ends in one of \.onnx, "
    ):
        senet.load_exported("a.txt")
    with pytest.raises(FileNotFoundError, match=r"there is no file a\.onnx"):
        senet.load_exported("a.onnx")
    for name in ("a.onnx", "b.pt2"):
        (tmp_path / name).write_bytes(b"no network")
        with pytest.raises(SenetError, match=r"cannot be opened by .*; it is damaged or no such file: copy it whole"):
            senet.load_exported(tmp_path / name)
    (tmp_path / "c.xml").write_text("no network")
    with pytest.raises(FileNotFoundError, match=r"c\.xml has no weights beside it: .*c\.bin is missing"):
        senet.load_exported(tmp_path / "c.xml")
    (tmp_path / "c.bin").touch()
    with pytest.raises(SenetError, match=r"c\.xml cannot be opened by OpenVINO"):
        senet.load_exported(tmp_path / "c.xml")


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("senet.deployment.exporting.open_model", None)  # which comes first
    places = ["/proc/x.onnx", str(tmp_path / f"{'x' * 300}.onnx")]
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        places.append(str(tmp_path / "closed" / "x.onnx"))
    for place in places:
        assert main(["export", "cifar_se_resnet20", place]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"senet: {place} cannot be written (")
        assert line.endswith("); name another output")
    assert {path.name for path in tmp_path.iterdir()} <= {"closed"}


def test_calibration_images_of_another_size_are_refused(tmp_path):
    images = torch.zeros(12, 3, 40, 40, dtype=torch.uint8)
    with pytest.raises(SenetError, match="calibration has images of 40 x 40 pixels, but the network takes 32 x 32"):
        senet.export(Small(), tmp_path / "a.onnx", precision="int8", calibration=images)


def test_files_of_a_fixed_batch_take_no_images_too(tmp_path):
    senet.export(Small(), tmp_path / "a.pt2", to="torch_export", dynamic=(), batch_size=4)
    assert senet.load_exported(tmp_path / "a.pt2")(torch.zeros(0, 3, 32, 32)).shape == (0, 4)


@pytest.mark.parametrize("change", [{"input": {}}, {"input": "images"}, {"class_names": "abcd"}, {"input": None}])
def test_metadata_that_are_not_whole_are_refused_in_one_sentence(change, tmp_path, monkeypatch):
    monkeypatch.setattr("senet.deployment.exporting.prove", lambda *args: None)
    monkeypatch.setattr("senet.deployment.exporting.write_parity", lambda *args: None)
    monkeypatch.setattr("senet.deployment.exporting.describe", lambda *a, **k: describe(*a, **k) | change)
    senet.export(Small(), tmp_path / "a.pt2", to="torch_export")
    with pytest.raises(SenetError, match="has metadata that do not state its class names and its input"):
        senet.load_exported(tmp_path / "a.pt2")


def test_options_without_effect_on_an_exported_file_are_refused(tmp_path):
    senet.export(Small(), tmp_path / "a.pt2", to="torch_export")
    exported = senet.load_exported(tmp_path / "a.pt2")
    with pytest.raises(SenetError, match=r"precision has no effect on .*a\.pt2"):
        senet.evaluate(exported, [(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))], precision="bf16")
    with pytest.raises(SenetError, match=r"a\.pt2 cannot be rewritten, for it is an exported file"):
        senet.optimize_for_inference(exported)
    for rewrite in (True, False):
        with pytest.raises(SenetError, match=r"a\.pt2 is an exported file already; give the network"):
            senet.export(exported, tmp_path / "b.onnx", rewrite=rewrite)


def test_an_exported_file_knows_what_its_training_held_out(tmp_path, monkeypatch):
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(tmp_path / "photos" / kind / f"{number}.png")
    data = senet.DataConfig(dataset=str(tmp_path / "photos"), val_fraction=0.4)
    monkeypatch.setattr("senet.deployment.exporting.run_data", lambda run: data)
    senet.export("cifar_se_resnet20", tmp_path / "a.pt2", to="torch_export")
    exported = senet.load_exported(tmp_path / "a.pt2")
    exported.function.class_names = exported.class_names = ("cat", "dog", *map(str, range(8)))
    warnings = []
    monkeypatch.setattr("senet.evaluation.batches.warn", warnings.append)
    senet.evaluate(exported, data)
    assert not warnings
    senet.evaluate(exported, data.dataset)
    assert "the network was trained on; add data.val_fraction=0.4 and data.split_seed=0" in warnings[0]


def test_a_pytorch_that_is_too_old_for_executorch_is_named_before_it_computes_nonsense(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.11.0+cu128"))
    remedy = r"needs PyTorch 2\.14 or later for ExecuTorch, and this is 2\.11\.0\+cu128; run: pip install -U"
    for write_or_open in (lambda path: to_executorch.write(None, path, None, {}, None), to_executorch.open_file):
        with pytest.raises(SenetError, match=remedy):
            write_or_open(tmp_path / "a.pte")
    assert not list(tmp_path.iterdir())


def test_a_file_of_no_square_is_warned_of(tmp_path, caplog):
    made = senet.export(Small(), tmp_path / "a.pt2", to="torch_export", image_size=(32, 48), dynamic=())
    assert made.parity.source == "16 generated pictures"
    assert "images of 32 x 48 pixels are no squares, as senet.predict and senet.evaluate cut them" in caplog.text


def test_an_output_ends_in_small_letters_and_a_file_may_be_renamed(tmp_path):
    with pytest.raises(SenetError, match=r"a\.PT2 does not end in \.pt2, as files of torch_export do; name it so"):
        senet.export(Small(), tmp_path / "a.PT2", to="torch_export")
    made = senet.export(Small(), tmp_path / "a.pt2", to="torch_export", dynamic=(), batch_size=3)
    assert [each.batch_size for each in made.parity.latencies] == [3, 3]  # what the file computes at once
    renamed = made.path.rename(tmp_path / "b.PT2")
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(senet.load_exported(renamed)(x), senet.load_exported(str(renamed))(x))
