"""The authors' release without its weights: the layers of the prototxts, Caffe's arithmetic, and .caffemodel bytes."""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

Blobs = dict[str, tuple[Tensor, ...]]
FACTOR = 999.98
"""Of the moving averages, which Caffe stores multiplied by it."""


# ---- layers, as in the prototxts of hujie-frank/SENet/models ---------------------------------------------------------


@dataclass
class Layer:
    name: str
    type: str
    bottoms: tuple[str, ...]
    top: str
    options: dict[str, int]
    shapes: tuple[tuple[int, ...], ...] = ()


@dataclass
class Net:
    layers: list[Layer] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=lambda: {"data": 3})

    def add(self, name: str, kind: str, *bottoms: str, top: str = "", channels: int = 0, shapes=(), **options) -> str:
        top = top or name
        self.layers.append(Layer(name, kind, bottoms, top, options, shapes))
        self.channels[top] = channels or self.channels[bottoms[0]]
        return top

    def conv(self, name: str, bottom: str, outputs: int, kernel: int = 1, stride: int = 1, group: int = 1) -> str:
        """A convolution with its BatchNorm and Scale, which work in place; pads half the kernel."""
        shape = (outputs, self.channels[bottom] // group, kernel, kernel)
        options = {"stride": stride, "pad": kernel // 2, "group": group}
        self.add(name, "Convolution", bottom, channels=outputs, shapes=(shape,), **options)
        self.add(f"{name}/bn", "BatchNorm", name, top=name, shapes=((outputs,), (outputs,), (1,)))
        return self.add(f"{name}/bn/scale", "Scale", name, top=name, shapes=((outputs,), (outputs,)))

    def conv_relu(self, name: str, bottom: str, outputs: int, *shape: int, **options: int) -> str:
        top = self.conv(name, bottom, outputs, *shape, **options)
        return self.add(f"{name}/relu", "ReLU", top, top=top)

    def gate(self, prefix: str, bottom: str) -> str:
        """Squeeze and excitation, up to the sigmoid."""
        channels = self.channels[bottom]
        hidden = channels // 16
        top = self.add(f"{prefix}_global_pool", "GlobalPooling", bottom)
        top = self.fully_connected(f"{prefix}_1x1_down", top, hidden, 1, 1)
        self.add(f"{top}/relu", "ReLU", top, top=top)
        top = self.fully_connected(f"{prefix}_1x1_up", top, channels, 1, 1)
        return self.add(f"{prefix}_prob", "Sigmoid", top, top=top)

    def fully_connected(self, name: str, bottom: str, outputs: int, *kernel: int) -> str:
        kind = "Convolution" if kernel else "InnerProduct"
        shapes = ((outputs, self.channels[bottom], *kernel), (outputs,))
        return self.add(name, kind, bottom, channels=outputs, shapes=shapes)

    def head(self, bottom: str, num_classes: int) -> None:
        """`pool5/7x7_s1` covers the whole map at 224 pixels, so it is a global pooling at any resolution."""
        self.fully_connected("classifier", self.add("pool5/7x7_s1", "GlobalPooling", bottom), num_classes)


def resnet(
    layers: tuple[int, ...],
    *,
    se: bool = True,
    groups: int = 1,
    entry: int = 64,
    width: int = 64,
    deep: bool = False,
    num_classes: int = 1000,
) -> Net:
    """SE-ResNet, SE-ResNeXt (groups and width) and SENet-154 (thinner entry too, three 3x3 in the stem, `deep`)."""
    net = Net()
    if deep:
        top = net.conv_relu("conv1_1/3x3_s2", "data", 64, 3, 2)
        top = net.conv_relu("conv1_2/3x3", top, 64, 3)
        top = net.conv_relu("conv1_3/3x3", top, 128, 3)
    else:
        top = net.conv_relu("conv1/7x7_s2", "data", 64, 7, 2)
    x = net.add("pool1/3x3_s2", "MaxPooling", top, kernel=3, stride=2)
    for stage, units in enumerate(layers, 2):
        scale = 2 ** (stage - 2)
        for i in range(1, units + 1):
            unit, stride = f"conv{stage}_{i}", 2 if stage > 2 and i == 1 else 1
            # The ResNets have the stride on the first 1x1, the grouped networks on the 3x3.
            strides = (stride, 1) if groups == 1 else (1, stride)
            top = net.conv_relu(f"{unit}_1x1_reduce", x, entry * scale, stride=strides[0])
            top = net.conv_relu(f"{unit}_3x3", top, width * scale, 3, strides[1], groups)
            top = net.conv(f"{unit}_1x1_increase", top, 256 * scale)
            shortcut = x
            if i == 1:
                kernel = 3 if deep and stage > 2 else 1
                shortcut = net.conv(f"{unit}_1x1_proj", x, 256 * scale, kernel, stride)
            if se:
                x = net.add(unit, "Axpy", net.gate(unit, top), top, shortcut, channels=256 * scale)
            else:
                x = net.add(unit, "Eltwise", top, shortcut)
            net.add(f"{unit}/relu", "ReLU", x, top=x)
    net.head(x, num_classes)
    return net


INCEPTIONS = {  # 1x1 (0: none, stride 2), 3x3_reduce, 3x3, double3x3_reduce, double3x3a and b, pool_proj
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}


def bn_inception(*, se: bool = True, num_classes: int = 1000) -> Net:
    net = Net()
    top = net.conv_relu("conv1/7x7_s2", "data", 64, 7, 2)
    top = net.add("pool1/3x3_s2", "MaxPooling", top, kernel=3, stride=2)
    top = net.conv_relu("conv2/3x3", net.conv_relu("conv2/3x3_reduce", top, 64), 192, 3)
    x = net.add("pool2/3x3_s2", "MaxPooling", top, kernel=3, stride=2)
    for name, (n1, r3, n3, rd, nd, proj) in INCEPTIONS.items():
        module, stride = f"inception_{name}", 1 if n1 else 2
        top = net.conv_relu(f"{module}/3x3_reduce", x, r3)
        branches = [net.conv_relu(f"{module}/3x3", top, n3, 3, stride)]
        top = net.conv_relu(f"{module}/double3x3_reduce", x, rd)
        top = net.conv_relu(f"{module}/double3x3a", top, nd, 3)
        branches.append(net.conv_relu(f"{module}/double3x3b", top, nd, 3, stride))
        if n1:
            branches.insert(0, net.conv_relu(f"{module}/1x1", x, n1))
            kind = "MaxPooling" if name == "5b" else "AveragePooling"
            top = net.add(f"{module}/pool", kind, x, kernel=3, stride=1, pad=1)
            branches.append(net.conv_relu(f"{module}/pool_proj", top, proj))
        else:
            branches.append(net.add(f"{module}/pool/3x3_s2", "MaxPooling", x, kernel=3, stride=2))
        channels = sum(net.channels[branch] for branch in branches)
        x = net.add(f"{module}/concat", "Concat", *branches, channels=channels)
        if se:
            x = net.add(f"{module}_scale", "GateScale", x, net.gate(module, x), top=f"{module}/output")
    net.head(x, num_classes)
    return net


RESNEXT = {"groups": 32, "entry": 128, "width": 128}
SENET = {"groups": 64, "entry": 128, "width": 256, "deep": True}
RELEASE: dict[str, Callable[..., Net]] = {
    "se_resnet50": partial(resnet, (3, 4, 6, 3)),
    "se_resnet101": partial(resnet, (3, 4, 23, 3)),
    "se_resnet152": partial(resnet, (3, 8, 36, 3)),
    "se_resnext50_32x4d": partial(resnet, (3, 4, 6, 3), **RESNEXT),
    "se_resnext101_32x4d": partial(resnet, (3, 4, 23, 3), **RESNEXT),
    "senet154": partial(resnet, (3, 8, 36, 3), **SENET),
    "se_bn_inception": bn_inception,
}
"""The seven networks by the names that this library gives them."""


def empty_blobs(net: Net) -> Blobs:
    """Blobs of the right shapes on the meta device."""
    return {x.name: tuple(torch.empty(s, device="meta") for s in x.shapes) for x in net.layers if x.shapes}


def random_blobs(net: Net) -> Blobs:
    """Blobs of a network that keeps its signals alive: the moving averages are about those of two noise images."""
    blobs: Blobs = {}
    tops = {"data": torch.randn(2, 3, 64, 64) * 70}
    for layer in net.layers:
        values = [tops[name] for name in layer.bottoms]
        if layer.shapes:
            blobs[layer.name] = random_layer(layer, values[0])
        tops[layer.top] = compute(layer, values, blobs.get(layer.name, ()))
    return blobs


def random_layer(layer: Layer, x: Tensor) -> tuple[Tensor, ...]:
    """Blobs of one layer whose input is `x`."""
    size = layer.shapes[0]
    if layer.type == "BatchNorm":
        variance, mean = x.var(), x.mean((0, 2, 3)) + x.std() * torch.randn(size) * 0.2
        variance = variance * torch.empty(size).uniform_(0.8, 1.6)
        return mean * FACTOR, variance * FACTOR, torch.tensor([FACTOR])
    if layer.type == "Scale":
        return torch.empty(size).uniform_(0.5, 1.0), torch.randn(size) * 0.2
    weight = torch.randn(size)
    return weight * (2 / weight[0].numel()) ** 0.5, *(torch.randn(shape) * 0.5 for shape in layer.shapes[1:])


# ---- Caffe's arithmetic ----------------------------------------------------------------------------------------------


def run(net: Net, blobs: Blobs, image_RGB: Tensor) -> Tensor:
    """Compute the last layer's output in float64.

    Args:
        net: the layers.
        blobs: of each layer that has some.
        image_RGB: (3, H, W), uint8.
    """
    bgr = image_RGB.double().flip(0) - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    tops = {"data": bgr[None]}
    for layer in net.layers:
        values = [tops[name] for name in layer.bottoms]
        tops[layer.top] = compute(layer, values, [blob.double() for blob in blobs.get(layer.name, ())])
    return tops[net.layers[-1].top]


def compute(layer: Layer, values: Sequence[Tensor], blobs: Sequence[Tensor]) -> Tensor:
    """Apply one layer to the tops below it."""
    x, options = values[0], layer.options
    if layer.type == "Convolution":
        bias = blobs[1] if len(blobs) > 1 else None
        return F.conv2d(x, blobs[0], bias, options.get("stride", 1), options.get("pad", 0), 1, options.get("group", 1))
    if layer.type == "BatchNorm":
        mean, variance = (blob.view(-1, 1, 1) / blobs[2] for blob in blobs[:2])
        return (x - mean) / (variance + 1e-5).sqrt()
    if layer.type == "Scale":
        return x * blobs[0].view(-1, 1, 1) + blobs[1].view(-1, 1, 1)
    if layer.type == "InnerProduct":
        return x.flatten(1) @ blobs[0].T + blobs[1]
    if layer.type.endswith("Pooling") and layer.type != "GlobalPooling":
        pool = F.max_pool2d if layer.type == "MaxPooling" else F.avg_pool2d  # both round sizes up; AVE counts padding
        return pool(x, options["kernel"], options["stride"], options.get("pad", 0), ceil_mode=True)
    functions: dict[str, Callable[[], Tensor]] = {
        "ReLU": lambda: x.clamp(min=0),
        "Sigmoid": lambda: 1 / (1 + (-x).exp()),
        "GlobalPooling": lambda: x.flatten(2).mean(2)[:, :, None, None],
        "Concat": lambda: torch.cat(list(values), 1),
        "GateScale": lambda: x * values[1],
        "Eltwise": lambda: x + values[1],
        "Axpy": lambda: x * values[1] + values[2],
    }
    return functions[layer.type]()


# ---- protobuf --------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    rest, low = value >> 7, value & 127
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def number(tag: int, value: int) -> bytes:
    return varint(tag << 3) + varint(value)


def payload(tag: int, content: bytes) -> bytes:
    return varint(tag << 3 | 2) + varint(len(content)) + content


def packed(values: Tensor, letter: str) -> bytes:
    return struct.pack(f"<{values.numel()}{letter}", *values.flatten().tolist())


def blob_proto(blob: Tensor) -> bytes:
    """A BlobProto as Caffe 1.0 writes it."""
    return payload(5, blob.numpy().astype("<f4").tobytes()) + payload(7, payload(1, b"".join(map(varint, blob.shape))))


def double_blob_proto(blob: Tensor) -> bytes:
    """A BlobProto of a network trained in double precision."""
    return payload(8, packed(blob, "d")) + payload(7, payload(1, b"".join(map(varint, blob.shape))))


def legacy_blob_proto(blob: Tensor) -> bytes:
    """A BlobProto from before blobs had shapes: four sizes, padded with leading ones."""
    sizes = (1,) * (4 - blob.dim()) + tuple(blob.shape)
    return b"".join(number(tag, size) for tag, size in enumerate(sizes, 1)) + payload(5, packed(blob, "f"))


def layer_parameter(layer: Layer, blobs: Iterable[Tensor], write_blob: Callable[[Tensor], bytes]) -> bytes:
    message = payload(1, layer.name.encode()) + payload(2, layer.type.encode())
    message += b"".join(payload(3, bottom.encode()) for bottom in layer.bottoms) + payload(4, layer.top.encode())
    return message + number(10, 1) + b"".join(payload(7, write_blob(blob)) for blob in blobs)  # 10 is the phase


def write_caffemodel(path: Path, net: Net, blobs: Blobs, write_blob: Callable[[Tensor], bytes] = blob_proto) -> Path:
    """Write a NetParameter with all layers of `net`, those without blobs too."""
    with path.open("wb") as file:
        file.write(payload(1, b"SE-network"))
        for layer in net.layers:
            file.write(payload(100, layer_parameter(layer, blobs.get(layer.name, ()), write_blob)))
    return path
