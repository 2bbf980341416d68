"""Pictures of any kind in the channels that a network takes, against their values by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from senet.data.channels import to_channels, to_rgb
from senet.data.preprocessing import Preprocessing, create_transform
from senet.errors import SenetError

GRAYS = np.array([[0, 128, 255], [1, 77, 254]], dtype=np.uint8)
COLORS = np.random.default_rng(0).integers(0, 256, (7, 9, 4), dtype=np.uint8)


def values(picture):
    """Return what `to_channels` made as (C, H, W)."""
    return (
        np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1) if isinstance(picture, Image.Image) else picture.numpy()
    )


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_are_scaled_by_their_range(mode):
    wide = GRAYS.astype(np.int64) * 257
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (3, 2), wide.astype(dtype).tobytes())
    assert np.array_equal(values(to_channels(image, 1))[0], GRAYS)
    assert np.array_equal(values(to_channels(image, 3)), np.stack([GRAYS] * 3))
    between = Image.frombytes(mode, (2, 1), np.array([128, 129]).astype(dtype).tobytes())  # 0.498 and 0.502 of a step
    assert values(to_channels(between, 1)).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("channels", [2, 4, 5, 3])
def test_arrays_have_their_channels_first_or_last(dtype, channels):
    array = np.random.default_rng(1).integers(0, 256, (8, 6, channels)).astype(np.uint8)
    wide = array.astype(dtype) * (257 if dtype != "u1" else 1)
    for given in (wide, wide.transpose(2, 0, 1)):
        assert np.array_equal(values(to_channels(given, channels)), array.transpose(2, 0, 1))
    assert np.array_equal(values(to_channels(wide[..., 0], 1))[0], array[..., 0])


def test_alpha_is_the_fourth_channel_and_the_second_of_gray():
    image = Image.fromarray(COLORS)
    assert np.array_equal(values(to_channels(image, 4)), COLORS.transpose(2, 0, 1))
    assert np.array_equal(values(to_channels(image, 3)), COLORS[..., :3].transpose(2, 0, 1))
    gray = image.convert("LA")
    assert np.array_equal(values(to_channels(gray, 2)), np.asarray(gray).transpose(2, 0, 1))
    palette = image.convert("RGB").quantize(8)
    palette.info["transparency"] = 0
    alpha = values(to_channels(palette, 4))[3]
    assert np.array_equal(alpha == 0, np.asarray(palette) == 0)


def test_transparent_pixels_keep_their_color_when_resized():
    """PIL multiplies by alpha, so that colors under transparent pixels vanish."""
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    pixels[:, 4:, 3] = 255
    preprocessing = Preprocessing(image_size=4, resize=4, mean=(0.0,) * 4, std=(1.0,) * 4)
    x = preprocessing.build()(Image.fromarray(pixels))
    assert x.shape == (4, 4, 4)
    torch.testing.assert_close(torch.Tensor(x[0]), torch.full((4, 4), 200 / 255))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_other_channels_are_resized_as_pil_resizes_each(interpolation):
    array = np.random.default_rng(2).integers(0, 256, (33, 21, 5), dtype=np.uint8)
    wanted = {"image_size": 9, "resize": 10, "interpolation": interpolation}
    many = Preprocessing(**wanted, mean=(0.0,) * 5, std=(1.0,) * 5).build()(array)
    one = Preprocessing(**wanted, mean=(0.0,), std=(1.0,)).build()
    for i in range(5):
        torch.testing.assert_close(many[i], one(Image.fromarray(array[..., i]))[0], rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_color_networks_take_every_mode(mode, channels):
    assert len(to_channels(Image.new(mode, (4, 3)), channels).getbands()) == channels


@pytest.mark.parametrize(
    ("picture", "channels", "said"),
    [
        (Image.new("F", (4, 3)), 1, "floating-point values"),
        (Image.new("F", (4, 3)), 3, "floating-point values"),
        (Image.new("I", (4, 3), 70000), 1, "32-bit or signed integers"),
        (Image.new("I", (4, 3), -1), 1, "32-bit or signed integers"),
        (Image.new("RGB", (4, 3)), 4, r"3 channels \(RGB\), but the network takes 4; save it as RGB with an alpha"),
        (Image.new("L", (4, 3)), 2, r"1 channel \(L\), but the network takes 2"),
        (
            Image.new("RGBA", (4, 3)),
            5,
            r"4 channels \(RGBA\), but the network takes 5; save it as a .npy array",
        ),
        (Image.new("CMYK", (4, 3)), 4, "CMYK"),
        (np.zeros((4, 3), np.float32), 1, "holds float32 values"),
        (np.zeros((4, 3), bool), 1, "holds bool values"),
        (np.zeros((0, 3), np.uint8), 1, "no pixels"),
        (np.zeros((6, 5, 2), np.uint8), 3, r"shape \(6, 5, 2\)"),
        (np.zeros((4, 6, 4), np.uint8), 4, r"shape \(4, 6, 4\)"),
        (np.zeros((2, 6, 5, 3), np.uint8), 3, "shape"),
        (torch.zeros(3, 5, 6), 2, "3 channels, but the network takes 2"),
    ],
)
def test_what_no_one_can_know_is_refused(picture, channels, said):
    with pytest.raises(SenetError, match=f"^the image .*{said}"):
        to_channels(picture, channels)


def test_remedies_help():
    assert to_channels(Image.new("RGB", (4, 3)).convert("RGBA"), 4).shape == (4, 3, 4)
    assert to_channels(np.zeros((3, 4, 5), np.uint8), 5).shape == (5, 3, 4)


def test_the_transform_of_a_model_takes_arrays_and_tensors():
    model = torch.nn.Identity()
    model.preprocessing = Preprocessing(image_size=4, resize=4, mean=(0.5,) * 5, std=(0.5,) * 5)
    stack = np.random.default_rng(3).integers(0, 256, (4, 4, 5), dtype=np.uint8)
    expected = torch.from_numpy(stack / 255 * 2 - 1).permute(2, 0, 1).float()
    torch.testing.assert_close(torch.Tensor(create_transform(model)(stack)), expected, atol=1e-6, rtol=1e-6)
    tensor = torch.from_numpy(stack).permute(2, 0, 1)
    torch.testing.assert_close(torch.Tensor(create_transform(model)(tensor)), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("picture", "channels"), [(COLORS, 4), (COLORS[..., :2], 2), (Image.new("I;16", (9, 7)), 1)])
def test_every_picture_can_be_shown(picture, channels):
    image = to_rgb(picture, channels)
    assert (image.mode, image.size) == ("RGB", (9, 7))
