"""Reading the authors' release: Caffe's binary files, and their layers as state dicts of this library."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from senet.errors import MissingFileError, SenetError, needed_for
from senet.weights.layouts import is_first_layer

with needed_for("reading a .caffemodel"):
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import DecodeError
    from google.protobuf.message_factory import GetMessageClass

Blobs = tuple[Tensor, ...]
"""The arrays of one Caffe layer, in its order."""
Place = tuple[str, str, str | None]
"""A pattern of Caffe's name of a layer, and this library's names of the layer and of the BatchNorm after it."""

ONE, MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
INT64, STRING = FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_STRING
PACKED = FieldDescriptorProto.TYPE_BYTES
"""Packed numbers look like bytes in the file; as bytes, NumPy reads them without a Python object for each."""
MESSAGES: Mapping[str, tuple[tuple[str, int, int, int | str], ...]] = {
    "BlobShape": (("dim", 1, MANY, INT64),),
    "BlobProto": (
        *((name, number, ONE, INT64) for number, name in enumerate(("num", "channels", "height", "width"), 1)),
        ("data", 5, MANY, PACKED),
        ("shape", 7, ONE, "BlobShape"),
        ("double_data", 8, MANY, PACKED),
    ),
    "LayerParameter": (("name", 1, ONE, STRING), ("blobs", 7, MANY, "BlobProto")),
    "NetParameter": (("layer", 100, MANY, "LayerParameter"),),
}
"""The fields of Caffe's messages that hold weights: name, number, label, type. Source: BVLC/caffe, caffe.proto."""


def with_bn(pattern: str, unit: str) -> Place:
    """Return the place of a unit of BN-Inception: a convolution `conv` and its BatchNorm `bn`."""
    return pattern, f"{unit}.conv", f"{unit}.bn"


RESNET: tuple[Place, ...] = (
    (r"conv1/7x7_s2", "conv1", "bn1"),
    (r"conv1_1/3x3_s2", "conv1.0", "conv1.1"),
    (r"conv1_2/3x3", "conv1.3", "conv1.4"),
    (r"conv1_3/3x3", "conv1.6", "bn1"),
    (r"(layer\d\.\d+)_1x1_reduce", r"\1.conv1", r"\1.bn1"),
    (r"(layer\d\.\d+)_3x3", r"\1.conv2", r"\1.bn2"),
    (r"(layer\d\.\d+)_1x1_increase", r"\1.conv3", r"\1.bn3"),
    (r"(layer\d\.\d+)_1x1_proj", r"\1.downsample.0", r"\1.downsample.1"),
    (r"(layer\d\.\d+)_1x1_down", r"\1.se.fc1", None),
    (r"(layer\d\.\d+)_1x1_up", r"\1.se.fc2", None),
    (r"classifier", "fc", None),
)
"""SE-ResNet, SE-ResNeXt and SENet-154; the units are numbered as in this library already."""
BN_INCEPTION: tuple[Place, ...] = (
    with_bn(r"conv1/7x7_s2", "conv1"),
    with_bn(r"conv2/3x3_reduce", "conv2_reduce"),
    with_bn(r"conv2/3x3", "conv2"),
    with_bn(r"(inception_\d[a-e])/(1x1|3x3_reduce|3x3)", r"\1.conv\2"),
    with_bn(r"(inception_\d[a-e])/(double3x3_reduce|pool_proj)", r"\1.\2"),
    with_bn(r"(inception_\d[a-e])/double3x3a", r"\1.double3x3_1"),
    with_bn(r"(inception_\d[a-e])/double3x3b", r"\1.double3x3_2"),
    (r"(inception_\d[a-e])_1x1_down", r"\1.se.fc1", None),
    (r"(inception_\d[a-e])_1x1_up", r"\1.se.fc2", None),
    (r"classifier", "fc", None),
)
"""SE-BN-Inception."""


def read_caffemodel(path: Path) -> dict[str, Blobs]:
    """Read the weights of a .caffemodel file.

    Args:
        path: of a file in the format of Caffe 1.0, in which a network is a list of `layer`s.

    Returns:
        The blobs of each layer that has some, float32 on the CPU, by the layer's name and in the file's order.

    Raises:
        SenetError: the file is absent, truncated, or not of this format.

    Source: BVLC/caffe, src/caffe/proto/caffe.proto.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no weights file {path}")
    try:
        net = net_parameter().FromString(path.read_bytes())
        layers = {name_of(layer): tuple(map(to_tensor, layer.blobs)) for layer in net.layer if layer.blobs}
    except (DecodeError, ValueError) as error:
        raise SenetError(f"{path} is truncated or not a Caffe model; get it again") from error
    if not layers:
        raise SenetError(f"{path} is empty or not a Caffe model with weights; get it again")
    return layers


@cache
def net_parameter() -> Any:
    """Return the protobuf class of a Caffe network, made from `MESSAGES`."""
    file = FileDescriptorProto(name="caffe.proto", package="caffe")
    for message, fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, number, label, kind in fields:
            field = described.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kind
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def name_of(layer: Any) -> str:
    """Return the name of a LayerParameter; a ValueError if it is no text, which protobuf gives as bytes."""
    if not isinstance(layer.name, str):
        raise ValueError("a layer's name is no text")
    return layer.name


def to_tensor(blob: Any) -> Tensor:
    """Return a BlobProto as a float32 tensor; a ValueError if its shape and number of values differ."""
    floats, doubles = (b"".join(chunks) for chunks in (blob.data, blob.double_data))
    values = np.frombuffer(floats, "<f4") if floats else np.frombuffer(doubles, "<f8")
    shape = blob.shape.dim if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    return torch.from_numpy(values.astype(np.float32).reshape(tuple(shape)))


def to_state_dict(blobs: Mapping[str, Blobs]) -> dict[str, Tensor]:
    """Convert the layers of a network of the release, or of its plain twin, into this library's state dict.

    The moving averages are divided by their factor, and the first convolution takes RGB where Caffe's takes BGR. Both
    see values of 0 to 255 without their mean, so nothing else changes.

    Args:
        blobs: as `read_caffemodel` returns them.

    Returns:
        The tensors under this library's names.

    Raises:
        SenetError: a layer that no network here has a place for, one that is missing, or blobs of another shape.

    Source: hujie-frank/SENet, models/*.prototxt; BVLC/caffe, src/caffe/layers/batch_norm_layer.cpp.
    """
    places = BN_INCEPTION if any(name.startswith("inception_") for name in blobs) else RESNET
    left = dict(blobs)
    state: dict[str, Tensor] = {}
    for name in dict.fromkeys(re.sub(r"/bn(/scale)?$", "", name) for name in blobs):
        layer, norm = find_place(name, places)
        tensors = take(left, name, 2 if norm is None else 1)
        weight = to_weight(name, tensors[0], dim=2 if layer == "fc" else 4)
        state[f"{layer}.weight"] = weight.flip(1) if is_first_layer(f"{layer}.weight") else weight
        channels = weight.shape[0]
        if norm is None:
            state[f"{layer}.bias"] = to_vector(name, tensors[1], channels)
        else:
            statistics, affine = take(left, f"{name}/bn", 3), take(left, f"{name}/bn/scale", 2)
            state |= {f"{norm}.{leaf}": v for leaf, v in batch_norm(name, statistics, affine, channels).items()}
    if left:
        raise no_place(next(iter(left)))
    return state


def find_place(name: str, places: tuple[Place, ...]) -> tuple[str, str | None]:
    """Return this library's names of a Caffe layer and of the BatchNorm after it."""
    numbered = re.sub(r"^conv(\d+)_(\d+)_", lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}_", name)
    for pattern, layer, norm in places:
        if match := re.fullmatch(pattern, numbered):
            return match.expand(layer), None if norm is None else match.expand(norm)
    raise no_place(name)


def no_place(name: str) -> SenetError:
    """Return the error about a layer that no network of this library has."""
    return SenetError(
        f"no network of this library has a place for the Caffe layer {name}; "
        "expected a network of the authors' release or its plain twin"
    )


def take(blobs: dict[str, Blobs], name: str, number: int) -> Blobs:
    """Remove and return the blobs of a layer that must have `number` of them."""
    if name not in blobs:
        raise SenetError(f"the Caffe model has no layer {name}, but others that belong to it; get the file again")
    taken = blobs.pop(name)
    if len(taken) != number:
        raise SenetError(f"the Caffe layer {name} has {len(taken)} blobs; expected {number}")
    return taken


def to_weight(name: str, tensor: Tensor, dim: int) -> Tensor:
    """Return a weight with `dim` dimensions; Caffe once padded all shapes to four, with ones at the front."""
    padding = tensor.dim() - dim
    if padding < 0 or any(size != 1 for size in tensor.shape[:padding]):
        raise SenetError(
            f"the Caffe layer {name} has a weight of shape {tuple(tensor.shape)}; expected {dim} dimensions"
        )
    return tensor.reshape(tensor.shape[padding:])


def to_vector(name: str, tensor: Tensor, length: int) -> Tensor:
    """Return a blob of `length` values as a vector, whatever its shape."""
    if tensor.numel() != length:
        raise SenetError(f"the Caffe layer {name} has a blob of shape {tuple(tensor.shape)}; expected {length} values")
    return tensor.flatten()


def batch_norm(name: str, statistics: Blobs, affine: Blobs, channels: int) -> dict[str, Tensor]:
    """Return PyTorch's BatchNorm tensors from those of Caffe's BatchNorm and Scale after the convolution `name`."""
    factor = to_vector(f"{name}/bn", statistics[2], 1)
    sums = (to_vector(f"{name}/bn", tensor, channels) for tensor in statistics[:2])
    mean, variance = (torch.where(factor == 0, 0, total / factor) for total in sums)  # Caffe takes 0 / 0 as 0
    weight, bias = (to_vector(f"{name}/bn/scale", tensor, channels) for tensor in affine)
    return {
        "weight": weight,
        "bias": bias,
        "running_mean": mean,
        "running_var": variance,
        "num_batches_tracked": torch.tensor(0),
    }
