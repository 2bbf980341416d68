"""Decoding once: every picture against the evaluation transform of one picture, which `predict` uses."""

import math
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from senet.data import decoding, jpeg
from senet.data.datasets import split_of_files
from senet.data.decoding import decode, number_of_threads
from senet.data.images import ImageSplit
from senet.data.jpeg import decoders_agree, shape_of
from senet.data.preprocessing import Preprocessing
from senet.data.readers import Arrays, Rows
from senet.errors import MissingFileError, SenetError

RGB = Preprocessing(image_size=24, resize=24, mean=(0.5,) * 3, std=(0.5,) * 3)
GRAY = Preprocessing(image_size=24, resize=24, mean=(0.5,), std=(0.5,))
CROPPED = Preprocessing(image_size=24, resize=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")
ROTATED = Image.Exif()
ROTATED[0x0112] = 6


def noise(height=24, width=24, channels=3, dtype=np.uint8, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def encoded(picture, kind, **options):
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def jpeg_of(picture=None, **options):
    return encoded(picture or Image.fromarray(noise()), "JPEG", **options)


FAST = {
    "444.jpg": jpeg_of(subsampling="4:4:4"),
    "422.jpg": jpeg_of(subsampling="4:2:2", quality=30),
    "420.jpg": jpeg_of(subsampling="4:2:0"),
    "progressive.jpg": jpeg_of(progressive=True, comment=b"made by hand"),
    "restarts.jpg": jpeg_of(restart_marker_blocks=1, optimize=True),
}
"""JPEG files that torchvision decodes; the others are PIL's."""
SLOW = {
    "rotated.jpg": jpeg_of(exif=ROTATED),
    "gray.jpg": jpeg_of(Image.fromarray(noise(channels=1))),
    "cmyk.jpg": jpeg_of(Image.fromarray(noise(channels=4), "CMYK")),
    "large.jpg": jpeg_of(Image.fromarray(noise(40, 50))),
    "small.jpg": jpeg_of(Image.fromarray(noise(10, 9))),
    "rgb.png": encoded(Image.fromarray(noise()), "PNG"),
    "rotated.png": encoded(Image.fromarray(noise()), "PNG", exif=ROTATED),
    "alpha.png": encoded(Image.fromarray(noise(channels=4)), "PNG"),
    "palette.png": encoded(Image.fromarray(noise()).quantize(16), "PNG"),
    "sixteen.png": encoded(Image.fromarray(noise(channels=1, dtype=np.uint16)), "PNG"),
    "large.png": encoded(Image.fromarray(noise(31, 40)), "PNG"),
    "lossy.webp": encoded(Image.fromarray(noise()), "WEBP"),
    "first_frame.gif": encoded(
        Image.fromarray(noise()), "GIF", save_all=True, append_images=[Image.new("RGB", (24, 24))]
    ),
    "two_pictures.mpo": encoded(
        Image.fromarray(noise()), "MPO", save_all=True, append_images=[Image.new("L", (24, 24))]
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, content in (FAST | SLOW).items():
        (folder / name).write_bytes(content)
    np.save(folder / "array.npy", noise(30, 24))
    return [(str(path), index) for index, path in enumerate(sorted(folder.iterdir()))]


def split_of(files):
    return split_of_files("pictures", files, tuple(name for name, _ in files))


def rows_of(files):
    """Return the split of a table with a row of each file: its content, or its path alone."""
    import datasets

    images = [
        {"bytes": None, "path": path} if index % 3 == 0 else {"bytes": Path(path).read_bytes(), "path": None}
        for index, (path, _) in enumerate(files)
    ]
    table = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image(decode=False))
    labels = np.array([label for _, label in files])
    names = tuple(name for name, _ in files)
    return ImageSplit(source="table", size=len(files), class_names=names, read_image=Rows(table, labels))


def arrays_of(files):
    """Return a split whose pictures are read by a function, not from the contents of files."""
    read = split_of(files).read_image
    return ImageSplit(source="arrays", size=len(files), class_names=("a",), read_image=lambda index: read(index))


@pytest.mark.parametrize("preprocessing", [RGB, GRAY, CROPPED], ids=["rgb", "gray", "cropped"])
@pytest.mark.parametrize("make", [split_of, rows_of, arrays_of])
def test_the_pixels_are_those_of_the_evaluation_transform(files, make, preprocessing):
    split = make(files)
    images, labels = decode(split, preprocessing)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == list(range(len(files)))
    to_pixels = v2.Compose([*preprocessing.geometry(), v2.PILToTensor()])
    for index, (name, _) in enumerate(files):
        assert torch.equal(images[index], to_pixels(split[index][0])), name


@pytest.mark.parametrize("make", [split_of, rows_of])
def test_torchvision_decodes_what_it_decodes_as_pil_does(files, make, monkeypatch):
    taken = []
    monkeypatch.setattr(decoding, "decoded", lambda content: taken.append(content) or jpeg.decoded(content))
    decode(make(files), RGB)
    assert sorted(taken) == sorted(FAST.values())
    taken.clear()
    decode(make(files), CROPPED)
    monkeypatch.setattr(decoding, "decoders_agree", lambda: False)
    decode(make(files), RGB)
    assert taken == []


def test_gray_files_for_a_network_of_one_channel(tmp_path, monkeypatch):
    content = SLOW["gray.jpg"]
    (tmp_path / "gray.jpg").write_bytes(content)
    taken = []
    monkeypatch.setattr(decoding, "decoded", lambda content: taken.append(content) or jpeg.decoded(content))
    images, _ = decode(split_of([(str(tmp_path / "gray.jpg"), 0)]), GRAY)
    assert taken == [content]
    with Image.open(BytesIO(content)) as expected:
        assert np.array_equal(images[0, 0].numpy(), np.asarray(expected))


@pytest.mark.parametrize("name", FAST)
def test_shape_of_a_file_that_torchvision_decodes(name):
    assert shape_of(FAST[name]) == (24, 24, 3)


@pytest.mark.parametrize("name", ["rotated.jpg", "cmyk.jpg", "two_pictures.mpo", "rgb.png", "lossy.webp"])
def test_other_files_have_no_shape(name):
    assert shape_of(SLOW[name]) is None


def test_a_file_that_is_cut_off_has_no_shape():
    content = FAST["420.jpg"]
    assert all(shape_of(content[:end]) is None for end in range(len(content)))
    header = content[: content.find(b"\xff\xda")]
    assert all(shape_of(header[:end] + b"\xff\xd9") is None for end in range(len(header) + 1))


@pytest.mark.skipif(torch.__version__ < "2.14", reason="the libjpeg of older torchvision ends damaged files otherwise")
def test_what_torchvision_reads_of_a_damaged_file_is_what_pil_reads():
    random, compared = np.random.default_rng(0), 0
    for content in [*FAST.values()] * 100:
        damaged = bytearray(content)
        for place in random.integers(2, len(content) - 2, random.integers(1, 4)):
            damaged[place] = random.integers(256)
        shape = shape_of(bytes(damaged))
        if shape is None or math.prod(shape) > 100_000:
            continue
        try:
            pixels = jpeg.decoded(bytes(damaged))
        except RuntimeError:
            continue  # PIL reads or refuses it
        with Image.open(BytesIO(damaged)) as expected:
            assert np.array_equal(pixels, np.asarray(expected))
        compared += 1
    assert compared > 200


def test_decoders_that_differ_are_noticed(monkeypatch):
    def broken(content):
        raise RuntimeError("built without libjpeg")

    def darker(content, decoded=jpeg.decoded):
        return np.minimum(decoded(content), 254)

    assert decoders_agree.__wrapped__()
    for changed in (broken, darker):
        monkeypatch.setattr(jpeg, "decoded", changed)
        assert not decoders_agree.__wrapped__()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (FAST["420.jpg"][:-200], r"b\.jpg cannot be read \(.*truncated"),
        (FAST["420.jpg"][:-200] + b"\xff\xd9", None),
        (FAST["420.jpg"].replace(b"\xff\xc4", b"\xff\xdd", 1), r"b\.jpg cannot be read"),
        (b"no picture", r"b\.jpg cannot be read \(it is not an image in a known format\)"),
        (SLOW["alpha.png"][:700], r"b\.jpg cannot be read"),
    ],
)
@pytest.mark.parametrize("make", [split_of, rows_of])
def test_a_damaged_file_is_named_or_read_as_pil_reads_it(tmp_path, make, content, problem):
    for name in ("a.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(FAST["420.jpg"])
    (tmp_path / "b.jpg").write_bytes(content)
    files = [(str(path), 0) for path in sorted(tmp_path.iterdir())]
    split = make(files)
    if problem is None:
        with Image.open(BytesIO(content)) as expected:
            assert np.array_equal(decode(split, RGB)[0][1].permute(1, 2, 0).numpy(), np.asarray(expected))
        return
    with pytest.raises(SenetError, match=problem if make is split_of else "image 1 of table cannot be read"):
        decode(split, RGB)


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(FAST["420.jpg"])
    with pytest.raises(MissingFileError, match=r"there is no image .*b\.jpg"):
        decode(split_of([(str(tmp_path / "a.jpg"), 0), (str(tmp_path / "b.jpg"), 0)]), RGB)


def test_a_row_without_an_image_is_named():
    rows = [{"image": {"bytes": FAST["420.jpg"], "path": None}}, {"image": None}]
    import datasets

    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image(decode=False))
    split = ImageSplit(source="table", size=2, class_names=("a",), read_image=Rows(table, np.zeros(2, int)))
    with pytest.raises(SenetError, match=r"image 1 of table cannot be read \(its row has none\)"):
        decode(split, RGB)


def test_relabeled_images_keep_their_pixels(files):
    split = split_of(files)
    backwards = list(range(len(files)))[::-1]
    images, labels = decode(split.relabeled(backwards, split.class_names[::-1]), RGB)
    assert labels.tolist() == backwards
    assert torch.equal(images, decode(split, RGB)[0])


@pytest.mark.parametrize("preprocessing", [RGB, GRAY, CROPPED], ids=["rgb", "gray", "cropped"])
@pytest.mark.parametrize("shape", [(5, 24, 24), (5, 24, 24, 3), (5, 30, 24, 3), (5, 24, 24, 4)])
def test_arrays(shape, preprocessing):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    read = Arrays(pixels, np.arange(10, 15))
    split = ImageSplit(source="arrays", size=4, class_names=("a",), read_image=read)
    images, labels = decode(split, preprocessing)
    assert labels.tolist() == [10, 11, 12, 13]
    assert len(images) == 4
    to_pixels = v2.Compose([*preprocessing.geometry(), v2.PILToTensor()])
    for image, array in zip(images, pixels, strict=False):
        assert torch.equal(image, to_pixels(Image.fromarray(array)))
    pixels[:] = 0
    assert images.any()


def test_every_image_moves_the_bar(files, monkeypatch):
    counted = []
    monkeypatch.setattr(decoding, "CHUNK", 4)
    monkeypatch.setattr(
        decoding, "tracked", lambda items, text, total: counted.append((list(items), text, total)) or []
    )
    decode(split_of(files), RGB)
    assert counted == [(list(range(len(files))), "Decoding pictures", len(files))]


def test_large_pictures_take_more_threads(monkeypatch):
    def threads(size):
        picture = Image.new("L", (size, size))
        return number_of_threads(
            ImageSplit(source="one", size=1, class_names=("a",), read_image=lambda index: (picture, 0))
        )

    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert (threads(32), threads(2000)) == (2, 16)
    assert 2 < threads(224) < 16
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert threads(2000) == 1


def test_decode_resizes_and_crops():
    def read(index):
        picture = Image.new("RGB", (20, 10), (index, 100, 200))
        picture.paste((0, 0, 0), (0, 0, 2, 10))  # cut away: of 20 columns the middle 10 stay
        return picture, index

    split = ImageSplit(source="pictures", size=5, class_names=tuple("abcde"), read_image=read)
    pixels, labels = decode(split, Preprocessing(image_size=5, resize=5, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert (pixels.shape, pixels.dtype) == ((5, 3, 5, 5), torch.uint8)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    for i in range(5):
        assert pixels[i].flatten(1).unique(dim=1).flatten().tolist() == [i, 100, 200]
    gray, _ = decode(split, Preprocessing(image_size=5, resize=5, mean=(0.0,), std=(1.0,)))
    assert gray.shape == (5, 1, 5, 5)
    assert gray[0, 0, 2, 2].item() == pytest.approx(0.587 * 100 + 0.114 * 200, abs=1)


def test_decode_refuses_what_does_not_fit(monkeypatch):
    monkeypatch.setattr("senet.data.decoding.physical_memory", lambda: 3 * 24 * 24 * 10 - 1)
    split = ImageSplit(source="big", size=10, class_names=("a",), read_image=lambda i: (Image.new("RGB", (6, 6)), 0))
    with pytest.raises(SenetError, match=r"big takes .* set data.in_memory to False"):
        decode(split, RGB)
    monkeypatch.setattr("senet.data.decoding.physical_memory", lambda: 3 * 24 * 24 * 10)
    assert decode(split, RGB)[0].shape == (10, 3, 24, 24)


def test_decode_names_what_cannot_be_read():
    def read(index):
        raise OSError("truncated")

    split = ImageSplit(source="pictures", size=1, class_names=("a",), read_image=read)
    with pytest.raises(SenetError, match="image 0 of pictures cannot be read"):
        decode(split, RGB)
