"""Valid files of every kind that the library reads, most of them written by it: what damage starts from."""

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

import senet
from boxed_pictures import write_coco, write_voc, write_yolo
from caffe_files import payload, varint
from senet.analysis.recording import Recording, record_excitations
from senet.configs import to_dict
from senet.data.config import DataConfig
from senet.data.preprocessing import Preprocessing
from senet.data.sharding import write_shards
from senet.deployment.metadata import FORMAT, KEY
from senet.recipes import get_recipe

Files = Mapping[str, bytes]
NETWORK = "cifar_se_resnet20"
SIDE = 8


def content_of(write: Callable[[Path], object]) -> Files:
    """Return the files that a function writes into a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        return {
            str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
        }


def saved(value: Any, *, zipped: bool = True) -> bytes:
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def picture(kind: str = "png", mode: str = "RGB", side: int = SIDE) -> bytes:
    """Return an image file."""
    rough = np.random.default_rng(0).integers(0, 256, (side, side, 4), dtype=np.uint8)
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, rough[..., :3])
    else:
        Image.fromarray(rough, "RGBA").convert(mode).save(file, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind))
    return file.getvalue()


# ---- weights ---------------------------------------------------------------------------------------------------------


@cache
def network() -> Any:
    """Return a network."""
    return senet.create_model(NETWORK, num_classes=10)


def weights() -> list[Files]:
    """Files of weights, as scripts save them."""
    state = network().state_dict()
    wrapped = {"epoch": 3, "model": {f"module.{key}": value for key, value in state.items()}, "lr": 0.1}
    contents = (saved(state), saved(wrapped), saved(wrapped, zipped=False), saved(nn.Module.state_dict(network())))
    return [{"weights.pth": content} for content in contents]


def safetensors() -> list[Files]:
    """Files of weights in numbers alone."""
    return [{"weights.safetensors": save(dict(network().state_dict()))}]


def model_folder() -> list[Files]:
    """Model folders."""
    return [content_of(lambda folder: senet.save_pretrained(network(), folder))]


def caffemodel() -> list[Files]:
    """A Caffe model of a few layers, in the shapes of a network of the release."""

    def layer(name: str, *shapes: tuple[int, ...]) -> bytes:
        blobs = b"".join(
            payload(
                7,
                payload(5, torch.ones(shape).numpy().tobytes()) + payload(7, payload(1, b"".join(map(varint, shape)))),
            )
            for shape in shapes
        )
        return payload(100, payload(1, name.encode()) + blobs)

    first = layer("conv1/7x7_s2", (4, 3, 7, 7)), layer("conv1/7x7_s2/bn", (4,), (4,), (1,))
    rest = layer("conv1/7x7_s2/bn/scale", (4,), (4,)), layer("classifier", (5, 4), (5,))
    return [{"net.caffemodel": b"".join((payload(1, b"net"), *first, *rest))}]


def training_state() -> list[Files]:
    """The training state of a run."""
    model = nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "ema": None,
        "optimizer": optimizer.state_dict(),
        "schedule": {"last_epoch": 1},
        "scaler": None,
        "position": {"epoch": 1, "batch": 2, "step": 3, "loss_sum": 0.5, "seconds": 1.0},
        "num_processes": 1,
    }
    former = {**state, "position": {**state["position"], "best_top1": 50.0}}
    return [{"last/training_state.pt": saved(each)} for each in (state, former)]


def run_folder() -> list[Files]:
    """A run folder without its weights."""
    config = get_recipe("digits")
    rows = [{"epoch": n, "loss": 1.0, "top1": 50.0 + n, "time_s": 1.0, "lr": 0.1, "step": 10 * n} for n in (0, 1, 2)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    about = {"train_size": 10, "eval_size": 5, "class_names": ["a", "b"], "held_out": None}
    files = {
        "config.json": json.dumps({"task": config.task, **to_dict(config)}).encode(),
        "data.json": json.dumps(about).encode(),
        "metrics.jsonl": lines,
        "last/config.json": model_folder()[0]["config.json"],
        **training_state()[0],
    }
    return [files]


def recording() -> list[Files]:
    """A recording of gates."""
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    found: Recording = record_excitations(network(), [(images, labels)])
    return [content_of(lambda folder: found.save(folder / "gates.safetensors"))]


# ---- data ------------------------------------------------------------------------------------------------------------


def images() -> list[Files]:
    """Image files."""
    kinds = (
        ("png", "RGB"),
        ("jpg", "RGB"),
        ("tif", "RGB"),
        ("tif", "CMYK"),
        ("gif", "P"),
        ("webp", "RGB"),
        ("npy", "RGB"),
    )
    kinds += (("png", "LA"), ("bmp", "RGB"), ("ppm", "RGB"))
    return [{"image": picture(*kind)} for kind in kinds]


def class_folders(root: Path) -> None:
    """Write a folder of classes."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                (root / split / name / f"{number}.png").write_bytes(picture(side=4 + number))


def shards(form: str) -> Files:
    """Return shards with their index."""

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            class_folders(Path(name))
            write_shards(DataConfig(dataset=name, preprocessing=small()), folder, form=form)

    return content_of(write)


def small() -> Preprocessing:
    """Return the preprocessing of small images."""
    return Preprocessing(image_size=SIDE, resize=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)


def index() -> list[Files]:
    """Shards with their index."""
    return [shards("tar")]


def tar() -> list[Files]:
    """A tar file without an index."""
    found = shards("tar")
    return [{"train-0.tar": found[name]} for name in found if name.startswith("train") and name.endswith(".tar")]


def parquet() -> list[Files]:
    """A parquet file without an index, whose images lie in it as they are, and one that is compressed."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    found = shards("parquet")
    (plain,) = (found[name] for name in found if name.startswith("train") and name.endswith(".parquet"))
    rows = pa.table(
        {"image": [{"bytes": picture(), "path": f"{n}.png"} for n in range(4)], "label": ["a", "b", "a", "b"]}
    )
    file = io.BytesIO()
    pq.write_table(rows, file, compression="zstd")
    return [{"train.parquet": plain}, {"train.parquet": file.getvalue()}]


def table() -> list[Files]:
    """A CSV file of pictures."""
    pictures = {f"pictures/{n}.png": picture(side=4 + n) for n in range(4)}
    plain = "image,label,split\n" + "".join(
        f"pictures/{n}.png,{'ab'[n % 2]},{('train', 'val')[n > 1]}\n" for n in range(4)
    )
    numbers = "image;label;split\n" + "".join(f"{n};{n % 2};{('train', 'val')[n > 1]}\n" for n in range(4))
    return [{"table.csv": text.encode(), **pictures} for text in (plain, numbers)]


def mapping() -> list[Files]:
    """A file of classes that are counted as others."""
    return [{"classes.json": b'{"cat": "pet", "dog": "pet", "oak": "tree"}'}]


def coco() -> list[Files]:
    """Pictures with boxes in COCO's form."""
    return [content_of(lambda folder: write_coco(folder, 2, 2))]


def voc() -> list[Files]:
    """Pictures with boxes in Pascal VOC's form."""
    return [content_of(lambda folder: write_voc(folder, 2, 2))]


def yolo() -> list[Files]:
    """Pictures with boxes in YOLO's form."""
    return [content_of(lambda folder: write_yolo(folder, 2, 2))]


# ---- exported files --------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """A network of one layer, which takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def metadata() -> dict[str, Any]:
    """Return what an exported file says of itself."""
    takes = {"name": "images", "layout": "NCHW", "dtype": "float32", "shape": [1, 3, SIDE, SIDE], "resizes": False}
    return {
        "format": FORMAT,
        "class_names": ["a", "b", "c"],
        "preprocessing": to_dict(small()),
        "input": takes,
        "outputs": [{"name": "logits", "dtype": "float32"}],
        "source": {"from": "x", "network": "tiny", "held_out": None},
    }


@cache
def onnx_model() -> Any:
    """Return a model of one layer."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "weight")
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["features"]),
        helper.make_node("ReduceMean", ["features"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "tiny", [given], [made], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, {KEY: json.dumps(metadata())})
    return model


def onnx() -> list[Files]:
    """An ONNX file."""
    return [{"net.onnx": onnx_model().SerializeToString()}]


def openvino() -> list[Files]:
    """A graph of OpenVINO and its weights."""
    import openvino as ov
    from openvino import opset8 as ops

    given = ops.parameter([1, 3, SIDE, SIDE], np.float32, name="images")
    weight = ops.constant(np.ones((3, 3, 3, 3), np.float32))
    features = ops.convolution(given, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([ops.reduce_mean(features, ops.constant(np.array([2, 3])))], [given], "tiny")
    model.set_rt_info(json.dumps(metadata()), [KEY])
    return [content_of(lambda folder: ov.save_model(model, folder / "net.xml", compress_to_fp16=False))]


def torch_export() -> list[Files]:
    """An archive of torch.export."""
    program = torch.export.export(Tiny().eval(), (torch.zeros(1, 3, SIDE, SIDE),))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{KEY}.json": json.dumps(metadata())})
    return [{"net.pt2": file.getvalue()}]
