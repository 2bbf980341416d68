"""Options of `senet export` as they are typed here and elsewhere, and values of all types."""

import numpy as np
import pytest

from senet.cli import main
from senet.cli.export import ExportCommand
from senet.deployment.config import ExportConfig
from senet.errors import SenetError


def refusal(words, capsys):
    """What is said of options, on one line of standard error."""
    assert main(["export", "cifar_se_resnet20", "a.onnx", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("senet: ")


@pytest.mark.parametrize(
    ("options", "here"),
    [
        ("--format openvino", "--to"),
        ("--half", "--fp16"),
        ("--imgsz 64", "--image-size HEIGHT WIDTH"),
        ("--opset-version 18", "--opset"),
        ("--saveEngine a.engine", "nothing: the output comes second, and trtexec makes an engine of a .onnx file"),
        (
            "--shapes images:1x3x32x32",
            "--batch-size and --image-size HEIGHT WIDTH, after --dynamic for nothing that is",
        ),
        ("--minShapes images:1x3x32x32", "--dynamic batch height width, of any length"),
        ("--workspace 4", "nothing: how much memory a runtime may take is said where the file runs"),
        ("--input-names x", "nothing: the input is called images"),
    ],
)
def test_habits_of_other_exporters_are_answered(options, here, capsys):
    assert refusal(options, capsys).startswith(f"no option is called {options.split()[0]}; here that is {here}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--to tensorrt",
            "--to has no tensorrt; export to onnx; on the machine with the GPU, trtexec --onnx=FILE.onnx",
        ),
        ("--to=TRT", "--to has no TRT; export to onnx; "),
        ("--to tflite", "--to has no tflite; on phones take executorch or coreml, and elsewhere onnx"),
        (
            "--to torchscript",
            "--to has no torchscript; take torch_export, whose .pt2 PyTorch opens without this library",
        ),
        ("--to pt", "--to has no pt; take torch_export"),
        ("--to ncnn", "--to has no ncnn; export to onnx, which its converter pnnx reads"),
        ("--precision bf16", "--precision has no bf16; take fp32: where a processor has bfloat16"),
        ("--precision half", "--precision has no half; take fp16"),
    ],
)
def test_values_of_other_exporters_are_answered(options, said, capsys):
    assert refusal(options, capsys).startswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--dynamic batch,height",
            "expected some of batch, height, width, with spaces between them, not 'batch,height'",
        ),
        ("--image-size x", "expected an integer, not 'x'"),
        ("--image-size 1 2 3", "expected one number for a square, or height and width, not 3 numbers"),
        ("--image-size", "expected one number for a square, or height and width, not 0 numbers"),
    ],
)
def test_values_that_cannot_be_read_are_said_in_our_words(options, said, capsys):
    assert main(["export", "cifar_se_resnet20", "a.onnx", *options.split()]) == 2
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in told
    assert options.split()[0] in told
    assert "NoneType" not in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--to executorch --dynamic batch",
            "--dynamic batch has no effect on executorch, whose files compute one shape",
        ),
        ("--to web --dynamic batch", "--dynamic batch has no effect on web, whose page prepares one picture at a time"),
        ("--to web --batch-size 1", "--batch-size 1 has no effect on web"),
        ("--to coreml --dynamic height width", "--dynamic height width has no effect on coreml"),
        ("--batch-size 1", "--batch-size 1 has no effect on a dynamic batch"),
        ("--precision fp32 --int8", "two precisions are asked for, fp32 and int8; name one"),
        ("--precision int8 --fp16", "two precisions are asked for, fp16 and int8; name one"),
    ],
)
def test_options_without_effect_are_refused_even_if_they_are_the_default_elsewhere(options, said, capsys):
    assert refusal(options, capsys).startswith(said)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--image-size", "64"], {"image_size": (64, 64)}),
        (["--image-size", "64", "96"], {"image_size": (64, 96)}),
        (["--image-size", "None", "--dynamic", "None"], {}),
        (["--dynamic"], {"dynamic": ()}),
        (["--dynamic", "batch", "width", "--fp16"], {"dynamic": ("batch", "width"), "precision": "fp16"}),
        (["--precision", "int8", "--int8"], {"precision": "int8"}),
        (["--to", "executorch", "--dynamic"], {"to": "executorch", "dynamic": ()}),
    ],
)
def test_what_is_typed_is_what_is_configured(words, options):
    command = ExportCommand.read(["pt", "tflite", *words], "senet export")
    assert (command.config(), command.model) == (ExportConfig(**options), "pt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dynamic": True}, "dynamic is True; expected the axes whose length is free, such as ('batch', 'height'"),
        ({"dynamic": {"images": {0: "batch"}}}, "dynamic is {'images': {0: 'batch'}}; expected the axes"),
        ({"image_size": 224.0}, "image_size is 224.0; expected height and width in pixels"),
        ({"image_size": "22"}, "image_size is '22'; expected height and width in pixels"),
        ({"opset": "18"}, "opset is '18'; expected a whole number"),
        ({"keep_float": "all"}, "keep_float is 'all'; expected a whole number"),
        ({"batch_size": 2.5}, "batch_size is 2.5; expected a whole number"),
        ({"preprocess": True, "resize": 256}, "resize is 256; expected True or False; the file scales to"),
    ],
)
def test_values_of_other_types_are_one_sentence(options, said):
    with pytest.raises(SenetError) as error:
        ExportConfig(**options)
    assert str(error.value).startswith(said)


def test_numbers_of_numpy_are_numbers():
    config = ExportConfig(image_size=np.int64(64), opset=np.int32(20))
    assert (config.image_size, config.opset) == ((64, 64), 20)
    assert type(config.opset) is int


@pytest.mark.parametrize("command", ["export", "predict", "evaluate", "train", "finetune", "shard", "record"])
def test_a_command_without_arguments_says_what_it_needs(command, capsys):
    try:
        status = main([command])
    except SystemExit as stopped:
        status = stopped.code
    printed = capsys.readouterr()
    assert status == (0 if command == "models" else 2)
    assert "Traceback" not in printed.err
