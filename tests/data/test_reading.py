"""Image files of every format and orientation, in one way wherever they are read."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from senet.data import reading
from senet.data.reading import missing_for, read_named, read_picture
from senet.errors import SenetError

NOISE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def read(path):
    return read_named(str(path), lambda: read_picture(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_upright(tmp_path, orientation, extension):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{extension}"
    Image.fromarray(NOISE).save(path, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(path))
    assert expected.size == ((9, 6) if orientation < 5 else (6, 9))
    for source in (path, path.read_bytes()):
        assert np.array_equal(np.asarray(read_picture(source)), np.asarray(expected))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_data_are_no_reason_to_lose_an_image(tmp_path):
    data = io.BytesIO()
    Image.fromarray(NOISE).save(data, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9)
    assert read_picture(data.getvalue()).size == (9, 6)


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_sixteen_bit_files(tmp_path, extension):
    from senet.data.channels import to_channels

    gray = NOISE[..., 0]
    path = tmp_path / f"wide.{extension}"
    Image.fromarray(gray.astype(np.uint16) * 257).save(path)
    assert np.array_equal(np.asarray(to_channels(read(path), 1)), gray)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_known_range_are_refused_by_file(tmp_path, dtype):
    from senet.data.channels import to_channels

    path = tmp_path / "height.tif"
    Image.fromarray(NOISE[..., 0].astype(dtype)).save(path)
    picture = read(path)
    with pytest.raises(SenetError, match=r"^.*height\.tif has .*range is not known; save it with 8 bits"):
        read_named(str(path), lambda: to_channels(picture, 1))


@pytest.mark.parametrize("num_pages", [2, 5])
def test_pages_of_a_tiff_are_channels(tmp_path, num_pages):
    planes = np.random.default_rng(1).integers(0, 256, (num_pages, 6, 9), dtype=np.uint8)
    first, *others = (Image.fromarray(plane) for plane in planes)
    first.save(tmp_path / "stack.tif", save_all=True, append_images=others)
    assert np.array_equal(read(tmp_path / "stack.tif").numpy(), planes)
    wide = [Image.fromarray(plane.astype(np.uint16) * 257) for plane in planes]
    wide[0].save(tmp_path / "wide.tif", save_all=True, append_images=wide[1:])
    assert np.array_equal(read(tmp_path / "wide.tif").numpy(), planes)


def test_smaller_copies_in_a_tiff_are_no_channels(tmp_path):
    image = Image.fromarray(NOISE)
    image.save(tmp_path / "thumbnail.tif", save_all=True, append_images=[image.resize((3, 2))])
    assert np.array_equal(np.asarray(read(tmp_path / "thumbnail.tif")), NOISE)


def test_pages_in_color_are_refused(tmp_path):
    image = Image.fromarray(NOISE)
    image.save(tmp_path / "document.tif", save_all=True, append_images=[image])
    with pytest.raises(SenetError, match=r"document\.tif has 2 pages of mode RGB; save the one to use"):
        read(tmp_path / "document.tif")


@pytest.mark.parametrize("channels", [2, 4, 5, 7])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiffs_of_other_programs(tmp_path, channels, planar, dtype, caplog):
    from senet.data.channels import to_channels

    tifffile = pytest.importorskip("tifffile")
    array = np.random.default_rng(2).integers(0, 256, (channels, 20, 30), dtype=np.uint8)
    wide = array.astype(dtype) * (257 if dtype == np.uint16 else 1)
    given = wide if planar == "separate" else np.ascontiguousarray(wide.transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "bands.tif", given, planarconfig=planar, photometric="minisblack")
    assert np.array_equal(to_channels(read(tmp_path / "bands.tif"), channels).numpy(), array)
    assert not caplog.text  # PIL complains of more channels than it takes


def test_a_tiff_that_pillow_does_not_know_names_the_extra(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    planes = np.zeros((5, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "bands.tif", planes, planarconfig="separate", photometric="minisblack")
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    with pytest.raises(SenetError, match=r"bands\.tif is a TIFF .*pip install 'senet\[tiff\]'"):
        read(tmp_path / "bands.tif")


def test_npy_files_are_read_without_code(tmp_path):
    array = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    np.save(tmp_path / "stack.npy", array)
    assert np.array_equal(read(tmp_path / "stack.npy"), array)
    np.save(tmp_path / "code.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(SenetError, match=r"code\.npy cannot be read"):
        read(tmp_path / "code.npy")


@pytest.mark.parametrize("extension", ["gif", "webp", "avif"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, extension):
    frames = [Image.new("RGB", (16, 16), color) for color in ("white", "black")]
    frames[0].save(tmp_path / f"moving.{extension}", save_all=True, append_images=frames[1:])
    assert missing_for(f".{extension}") == ""
    assert np.asarray(read(tmp_path / f"moving.{extension}").convert("L")).min() > 250


def heic(path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), (200, 20, 20))).save(path)


def test_heic_is_read_where_its_package_is_there(tmp_path):
    heic(tmp_path / "photo.heic")
    assert missing_for(".HEIC") == ""
    red = np.asarray(read(tmp_path / "photo.heic")).reshape(-1, 3).mean(0)
    assert np.abs(red - [200, 20, 20]).max() < 10


def test_heic_names_its_extra(tmp_path, monkeypatch):
    heic(tmp_path / "photo.heic")
    monkeypatch.setattr(reading, "can_read", lambda needed: needed != "heif")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    assert missing_for(".heic") == "pip install 'senet[heif]'"
    with pytest.raises(SenetError, match=r"photo\.heic is a HEIC image.*pip install 'senet\[heif\]'"):
        read(tmp_path / "photo.heic")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mutated_files_give_an_image_or_one_sentence(tmp_path):
    rng = np.random.default_rng(3)
    files = []
    for extension in ("jpg", "png", "gif", "tif", "webp", "avif", "bmp", "ppm"):
        data = io.BytesIO()
        Image.fromarray(NOISE).save(data, Image.registered_extensions()[f".{extension}"])
        files.append((extension, data.getvalue()))
    said = {}
    for number in range(160):
        extension, content = files[number % len(files)]
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 6)] = rng.integers(0, 256, 6)
        path = tmp_path / f"{number}.{extension}"
        path.write_bytes(damaged.tobytes()[: rng.integers(1, len(damaged) + 1) if number % 3 else None])
        try:
            assert isinstance(read(path), Image.Image | np.ndarray | torch.Tensor)
        except SenetError as error:
            said[path] = str(error)
    assert 0 < len(said) < 160
    assert all("\n" not in message and str(path) in message for path, message in said.items())


def test_a_link_to_nothing_is_called_one(tmp_path):
    link = tmp_path / "x.png"
    link.symlink_to(tmp_path / "absent.png")
    with pytest.raises(SenetError, match=r"x\.png is a link to a file that is not there"):
        read_named(str(link), lambda: read_picture(link))
