"""The authors' release: files written byte by byte, and networks computed with Caffe's arithmetic."""

from functools import partial

import pytest
import torch
from torchvision.transforms import v2

from caffe_files import (
    RELEASE,
    RESNEXT,
    SENET,
    Net,
    bn_inception,
    double_blob_proto,
    empty_blobs,
    legacy_blob_proto,
    payload,
    random_blobs,
    resnet,
    run,
    write_caffemodel,
)
from networks import assert_relatively_close, fresh_on_meta, relative_difference
from senet.data.preprocessing import IMAGENET
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.catalog import model_card
from senet.models.resnet import imagenet_resnet
from senet.nn.block import SEOptions
from senet.weights.caffe import read_caffemodel, to_state_dict

PLAIN = {
    "resnet50": partial(resnet, (3, 4, 6, 3), se=False),
    "resnext50_32x4d": partial(resnet, (3, 4, 6, 3), se=False, **RESNEXT),
    "bn_inception": partial(bn_inception, se=False),
}


def short_senet(num_classes: int) -> torch.nn.Module:
    """SENet-154 with fewer units: the whole has 440 MB."""
    options = model_card("senet154").build.keywords
    return imagenet_resnet((2, 1, 1, 1), num_classes=num_classes, se=SEOptions(), **options)


NETWORKS = {
    "se_resnet50": (RELEASE["se_resnet50"], partial(create_model, "se_resnet50")),
    "resnet50": (PLAIN["resnet50"], partial(create_model, "resnet50")),
    "se_resnext50_32x4d": (RELEASE["se_resnext50_32x4d"], partial(create_model, "se_resnext50_32x4d")),
    "short senet154": (partial(resnet, (2, 1, 1, 1), **SENET), short_senet),
    "se_bn_inception": (RELEASE["se_bn_inception"], partial(create_model, "se_bn_inception")),
}


@pytest.fixture
def small_net() -> Net:
    """A stage of one unit with SE, which has every kind of layer."""
    torch.manual_seed(0)
    return resnet((1,), num_classes=7)


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("name", NETWORKS)
def test_same_logits_as_in_caffe(name, tmp_path):
    torch.manual_seed(0)
    build_theirs, build_ours = NETWORKS[name]
    net = build_theirs(num_classes=10)
    blobs = random_blobs(net)
    with torch.device("meta"):
        model = build_ours(num_classes=10)
    state = to_state_dict(read_caffemodel(write_caffemodel(tmp_path / "net.caffemodel", net, blobs)))
    model.load_state_dict(state, assign=True)

    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    preprocess = v2.Compose(IMAGENET.normalize())
    pixels = torch.stack([preprocess(v2.functional.to_pil_image(x)) for x in (image, image.flip(0))])
    whole = pixels.round()  # the mean is in whole numbers, so all but rounding is exact
    torch.testing.assert_close(pixels, whole, rtol=0, atol=1e-4)
    with torch.no_grad():
        logits, logits_of_bgr = model.double().eval()(whole.double()).split(1)
    assert_relatively_close(logits, run(net, blobs, image), 1e-5)
    assert relative_difference(logits_of_bgr, logits) > 0.1  # the logits do depend on the image


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("name", [*RELEASE, *PLAIN])
def test_keys_and_shapes_are_those_of_our_network(name):
    net = (RELEASE | PLAIN)[name]()
    state = to_state_dict(empty_blobs(net))
    ours = fresh_on_meta(name).state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {key: tensor.shape for key, tensor in ours.items()}
    assert all(state[key].dtype == tensor.dtype for key, tensor in ours.items())


@pytest.mark.parametrize("write_blob", [legacy_blob_proto, double_blob_proto])
def test_other_forms_of_blobs(write_blob, small_net, tmp_path):
    blobs = random_blobs(small_net)
    state = to_state_dict(read_caffemodel(write_caffemodel(tmp_path / "other", small_net, blobs, write_blob)))
    expected = to_state_dict(blobs)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())


def test_blobs_survive_the_file_bit_for_bit(small_net, tmp_path):
    blobs = random_blobs(small_net)
    read = read_caffemodel(write_caffemodel(tmp_path / "net", small_net, blobs))
    assert list(read) == list(blobs)
    for name, tensors in blobs.items():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(read[name], tensors, strict=True))


@pytest.mark.parametrize(("factor", "mean", "variance"), [(2.0, 3.0, 4.0), (0.5, 12.0, 16.0), (0.0, 0.0, 0.0)])
def test_moving_averages_by_hand(factor, mean, variance):
    state = to_state_dict(
        {
            "conv2_3_3x3": (torch.ones(1, 1, 3, 3),),
            "conv2_3_3x3/bn": (torch.tensor([6.0]), torch.tensor([8.0]), torch.tensor([factor])),
            "conv2_3_3x3/bn/scale": (torch.tensor([0.7]), torch.tensor([-0.2])),
        }
    )
    assert {key: tensor.squeeze().tolist() for key, tensor in state.items() if "bn2" in key} == {
        "layer1.2.bn2.weight": pytest.approx(0.7),
        "layer1.2.bn2.bias": pytest.approx(-0.2),
        "layer1.2.bn2.running_mean": mean,
        "layer1.2.bn2.running_var": variance,
        "layer1.2.bn2.num_batches_tracked": 0,
    }


def test_only_the_first_convolution_turns_from_bgr_to_rgb(small_net):
    blobs = random_blobs(small_net)
    state = to_state_dict(blobs)
    blue, green, red = blobs["conv1/7x7_s2"][0].unbind(1)
    assert torch.equal(state["conv1.weight"], torch.stack((red, green, blue), 1))
    assert torch.equal(state["layer1.0.conv2.weight"], blobs["conv2_1_3x3"][0])


def test_file_cut_short(small_net, tmp_path):
    path = write_caffemodel(tmp_path / "net.caffemodel", small_net, random_blobs(small_net))
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(SenetError, match=r"net\.caffemodel is truncated or not a Caffe model; get it again"):
            read_caffemodel(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty or not a Caffe model with weights"),
        (payload(1, b"a network without layers"), "is empty or not a Caffe model with weights"),
        (b'name: "SE-ResNet-50"\nlayer {\n  name: "data"\n}\n', "is truncated or not a Caffe model"),
        (b"<!DOCTYPE html><html></html>", "is truncated or not a Caffe model"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is truncated or not a Caffe model"),
        (b"PK\x03\x04" + bytes(100), "is truncated or not a Caffe model"),
        # Bytes that are no whole number of floats; a shape of four values before one.
        (payload(100, payload(1, b"a") + payload(7, payload(5, b"abc"))), "is truncated or not a Caffe model"),
        (
            payload(100, payload(1, b"a") + payload(7, payload(5, bytes(4)) + payload(7, payload(1, b"\4")))),
            "is truncated or not a Caffe model",
        ),
    ],
)
def test_file_of_another_kind(content, said, tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(SenetError, match=rf"net\.caffemodel {said}.*; get it again"):
        read_caffemodel(path)


def test_no_file(tmp_path):
    with pytest.raises(SenetError, match=r"there is no weights file .*absent"):
        read_caffemodel(tmp_path / "absent.caffemodel")


@pytest.mark.parametrize("name", ["fc6", "conv6_1/sep", "conv0_1_3x3", "conv2_1_3x3x", "classifier/bn"])
def test_layer_too_much(name, small_net):
    blobs = random_blobs(small_net) | {name: (torch.ones(2, 2), torch.ones(2))}
    with pytest.raises(SenetError, match=f"no network of this library has a place for the Caffe layer {name};"):
        to_state_dict(blobs)


@pytest.mark.parametrize("name", ["conv1/7x7_s2/bn", "conv2_1_1x1_proj/bn/scale", "conv2_1_3x3"])
def test_layer_missing(name, small_net):
    blobs = random_blobs(small_net)
    del blobs[name]
    with pytest.raises(SenetError, match=f"the Caffe model has no layer {name}, "):
        to_state_dict(blobs)


@pytest.mark.parametrize(
    ("name", "shapes", "said"),
    [
        ("conv2_1_3x3", ((64, 64, 3, 3), (64,)), "has 2 blobs; expected 1"),
        ("conv2_1_1x1_down", ((16, 256, 1, 1),), "has 1 blobs; expected 2"),
        ("conv2_1_3x3/bn", ((64,), (64,)), "has 2 blobs; expected 3"),
        ("conv2_1_3x3", ((64, 64),), r"has a weight of shape \(64, 64\); expected 4 dimensions"),
        ("classifier", ((2, 7, 256), (7,)), r"has a weight of shape \(2, 7, 256\); expected 2 dimensions"),
        ("classifier", ((7, 256), (6,)), r"has a blob of shape \(6,\); expected 7 values"),
        ("conv2_1_3x3/bn", ((64,), (63,), (1,)), r"has a blob of shape \(63,\); expected 64 values"),
        ("conv2_1_3x3/bn", ((64,), (64,), (2,)), r"has a blob of shape \(2,\); expected 1 values"),
        ("conv2_1_3x3/bn/scale", ((64,), (8, 9)), r"has a blob of shape \(8, 9\); expected 64 values"),
    ],
)
def test_blobs_of_another_number_or_shape(name, shapes, said, small_net):
    blobs = random_blobs(small_net) | {name: tuple(torch.ones(shape) for shape in shapes)}
    with pytest.raises(SenetError, match=f"the Caffe layer {name} {said}$"):
        to_state_dict(blobs)
