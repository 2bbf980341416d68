"""Every kind of data set, written by the test itself: nothing is downloaded."""

import io
import pickle
from pathlib import Path
from urllib.error import URLError

import datasets
import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision
from PIL import Image
from torchvision.datasets import cifar

from senet.data.channels import to_channels
from senet.data.config import DataConfig
from senet.data.datasets import has_evaluation_images, open_split
from senet.errors import SenetError

COLORS = [(200, 20, 20), (20, 200, 20), (20, 20, 200), (120, 120, 120), (240, 240, 0)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def assert_refused(dataset, split, *words, **options):
    """Open and hold the error to one sentence with these words."""
    with pytest.raises(SenetError) as caught:
        open_split(DataConfig(dataset=str(dataset), **options), split)
    assert_one_sentence(caught.value, *words)


def assert_one_sentence(error, *words):
    message = str(error)
    assert "\n" not in message
    assert "Traceback" not in message
    for word in words:
        assert str(word) in message


def assert_color(image, color, tolerance=0):
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels - np.array(color)).max() <= tolerance


# ---- digits


def test_digits():
    splits = {name: open_split(DataConfig(dataset="digits"), name) for name in ("train", "eval")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 1437, "eval": 360}
    seen = {}
    for name, split in splits.items():
        images = [split[i] for i in range(len(split))]
        assert {label for _, label in images} == set(range(10))
        assert {(image.mode, image.size) for image, _ in images} == {("L", (8, 8))}
        seen[name] = [(image.tobytes(), label) for image, label in images]
        assert split.class_names == tuple("0123456789")
    assert not set(seen["train"]) & set(seen["eval"])
    assert max(max(pixels) for pixels, _ in seen["train"]) == 255
    again = open_split(DataConfig(dataset="digits"), "eval")
    assert [(image.tobytes(), label) for image, label in (again[i] for i in range(360))] == seen["eval"]


# ---- folders of images


def write_folder(root, **splits):
    """Write split/class/number.png, in a color that tells the class."""
    for split, counts in splits.items():
        for number, (name, count) in enumerate(sorted(counts.items())):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (6, 5), COLORS[number]).save(folder / f"{i}.png")


@pytest.mark.parametrize(
    ("train", "name"),
    [("train", "val"), ("train", "validation"), ("train", "valid"), ("train", "test"), ("Training", "Testing")],
)
def test_image_folder(tmp_path, train, name):
    root = tmp_path / "pets"
    write_folder(root, **{train: {"cat": 3, "dog": 2}, name: {"cat": 1, "dog": 2}})
    (root / train / "cat" / "notes.txt").write_text("not an image, and not taken for one")
    for split, labels in (("train", [0, 0, 0, 1, 1]), ("eval", [0, 1, 1])):
        images = open_split(DataConfig(dataset=str(root)), split)
        assert images.class_names == ("cat", "dog")
        assert [images[i][1] for i in range(len(images))] == labels
        for i, label in enumerate(labels):
            assert_color(images[i][0], COLORS[label])


def test_val_comes_before_test(tmp_path):
    write_folder(tmp_path, train={"cat": 1}, test={"cat": 2}, val={"cat": 3})
    assert len(open_split(DataConfig(dataset=str(tmp_path)), "eval")) == 3


def test_folder_with_other_classes_in_val(tmp_path):
    write_folder(tmp_path, train={"cat": 1, "dog": 1}, val={"cat": 1, "wolf": 1})
    assert_refused(tmp_path, "eval", "different classes", "wolf only in", tmp_path / "val")


def test_folder_with_an_empty_class(tmp_path):
    write_folder(tmp_path, train={"cat": 1, "dog": 0}, val={"cat": 1})
    assert_refused(tmp_path, "train", tmp_path / "train", "no images in dog/", "needs a folder")


def test_folder_without_val(tmp_path):
    write_folder(tmp_path, train={"cat": 1})
    assert_refused(tmp_path, "eval", "no folder val/", "val/CLASS/IMAGE")


def test_folder_of_classes_is_to_evaluate_on(tmp_path):
    write_folder(tmp_path / "pets", val={"cat": 2, "dog": 1})
    root = (tmp_path / "pets" / "val").rename(tmp_path / "my_pets")
    Image.new("RGB", (4, 4)).save(root / "of_no_class.png")
    images = open_split(DataConfig(dataset=str(root)), "eval")
    assert (images.class_names, len(images), images[2][1]) == (("cat", "dog"), 3, 1)
    assert_refused(root, "train", "no folder train/")


def test_folder_without_train(tmp_path):
    write_folder(tmp_path, val={"cat": 1})
    assert_refused(tmp_path, "train", "no folder train/")
    assert len(open_split(DataConfig(dataset=str(tmp_path)), "eval")) == 1


def test_folder_without_classes(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "0.png")
    assert_refused(tmp_path, "train", tmp_path / "train", "each class needs a folder")


def jpeg_bytes(size=64):
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data, "JPEG")
    return data.getvalue()


DAMAGES = {
    "text.png": b"this is not an image",
    "empty.jpg": b"",
    "truncated.jpg": jpeg_bytes()[:2000],
    "header.png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\x05IHDR\x00\x00\x00\x04\x00",  # PIL: ValueError
    # A bitmap of 60000 x 60000 by its header; PIL: DecompressionBombError
    "bomb.bmp": b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    + (60000).to_bytes(4, "little") * 2 + b"\x01\x00\x18\x00" + bytes(24),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_image_is_named(tmp_path, name):
    write_folder(tmp_path, train={"cat": 1, "dog": 1})
    damaged = tmp_path / "train" / "dog" / f"a_{name}"
    damaged.write_bytes(DAMAGES[name])
    images = open_split(DataConfig(dataset=str(tmp_path)), "train")
    assert len(images) == 3
    order = [images.files[i][0] for i in range(3)]
    bad = order.index(str(damaged))
    with pytest.raises(SenetError) as caught:
        images[bad]
    assert_one_sentence(caught.value, damaged, "cannot be read", "replace or remove it")
    images[0], images[({1, 2} - {bad}).pop()]  # the others still can


# ---- torchvision


def write_cifar(root, kind, num_classes, per_file=20):
    """Write torchvision's pickle files; image i of a file has the red value i."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    label_key = "labels" if num_classes == 10 else "fine_labels"
    for offset, (name, _) in enumerate(kind.train_list + kind.test_list):
        planes = np.zeros((per_file, 3, 1024), dtype=np.uint8)
        planes[:, 0] = np.arange(per_file)[:, None]
        planes[:, 1] = 100 + offset
        planes[:, 2, :32] = 255  # the first row is blue
        labels = [(i + offset) % num_classes for i in range(per_file)]
        (folder / name).write_bytes(pickle.dumps({"data": planes.reshape(per_file, 3072), label_key: labels}))
    names = [f"class{i}" for i in range(num_classes)]
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))


@pytest.mark.parametrize(
    ("name", "kind", "num_classes"), [("cifar10", cifar.CIFAR10, 10), ("cifar100", cifar.CIFAR100, 100)]
)
def test_cifar(tmp_path, monkeypatch, name, kind, num_classes):
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    write_cifar(tmp_path, kind, num_classes)
    config = DataConfig(dataset=name, root=tmp_path)
    train, evaluation = open_split(config, "train"), open_split(config, "eval")
    num_files = len(kind.train_list)
    assert (len(train), len(evaluation)) == (20 * num_files, 20)
    assert train.class_names == evaluation.class_names == tuple(f"class{i}" for i in range(num_classes))
    image, label = train[20 * (num_files - 1) + 7]
    assert (image.size, label) == ((32, 32), (7 + num_files - 1) % num_classes)
    assert image.getpixel((5, 1)) == (7, 100 + num_files - 1, 0)
    assert image.getpixel((5, 0)) == (7, 100 + num_files - 1, 255)
    image, label = evaluation[3]
    assert (image.getpixel((0, 1)), label) == ((3, 100 + num_files, 0), (3 + num_files) % num_classes)


def test_class_names_of_a_data_set_with_names_must_be_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    write_cifar(tmp_path, cifar.CIFAR10, 10)
    names = tuple(f"class{i}" for i in range(10))
    assert open_split(DataConfig(dataset="cifar10", root=tmp_path, class_names=names), "eval").class_names == names
    others = tuple("abcdefghij")
    assert_refused("cifar10", "train", "data.class_names differs", "which has names", root=tmp_path, class_names=others)
    assert_refused(
        "cifar10", "train", "data.class_names has 3 names", "10 classes", root=tmp_path, class_names=tuple("abc")
    )


def test_cifar_that_cannot_be_downloaded(tmp_path, monkeypatch):
    def download(*args, **options):
        raise URLError("no network")

    monkeypatch.setattr(cifar, "download_and_extract_archive", download)
    assert_refused(
        "cifar10", "train", "cifar10 could not be opened", tmp_path, "no network", "data.root", root=tmp_path
    )


@pytest.mark.parametrize("name", ["imagenet", "places365"])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_absent_root(tmp_path, name, split):
    root = tmp_path / "nowhere"
    assert_refused(name, split, f"{name} could not be opened in {root}", "data.root", root=root)


# ---- parquet and the Hugging Face hub


def encoded(color):
    data = io.BytesIO()
    Image.new("RGB", (6, 5), color).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def write_parquet(folder, features=None, image="image", label="label", **splits):
    """Write one parquet file a split; an image has its label's color, or the first if that is not a number."""
    folder.mkdir(exist_ok=True)
    for split, labels in splits.items():
        colors = [COLORS[value] if isinstance(value, int) else COLORS[0] for value in labels]
        columns = {image: [encoded(color) for color in colors], label: labels}
        if features is not None:
            datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
            continue
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        label_column = pa.array(labels) if len(labels) else pa.array([], pa.int64())
        table = pa.table({image: pa.array(columns[image], kind), label: label_column})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "colors"


@pytest.mark.parametrize("test_name", ["test", "validation"])
def test_parquet(folder, test_name):
    write_parquet(folder, train=[0, 1, 2, 1], **{test_name: [2, 0, 1]})
    for split, labels in (("train", [0, 1, 2, 1]), ("eval", [2, 0, 1])):
        images = open_split(DataConfig(dataset=str(folder)), split)
        assert images.class_names == ("0", "1", "2")
        assert [images[i][1] for i in range(len(images))] == labels
        for i, label in enumerate(labels):
            assert_color(images[i][0], COLORS[label])


def test_parquet_with_other_columns(folder):
    write_parquet(folder, image="img", label="fine_label", train=[0, 1], test=[1])
    assert_refused(folder, "train", "columns img, fine_label", "data.image_column, which is 'image'")
    assert_refused(folder, "train", "data.label_column, which is 'label'", image_column="img")
    config = DataConfig(dataset=str(folder), image_column="img", label_column="fine_label")
    assert open_split(config, "eval")[0][1] == 1


def test_parquet_with_names_in_its_schema(folder):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["red", "green"])})
    write_parquet(folder, features, train=[0, 1, 1], test=[0])
    for split in ("train", "eval"):
        assert open_split(DataConfig(dataset=str(folder)), split).class_names == ("red", "green")


def test_evaluation_without_the_last_class(folder):
    write_parquet(folder, train=[0, 1, 2, 3], test=[0, 1, 1])
    images = open_split(DataConfig(dataset=str(folder)), "eval")
    assert images.class_names == ("0", "1", "2", "3")
    named = DataConfig(dataset=str(folder), class_names=("a", "b", "c", "d"))
    assert open_split(named, "eval").class_names == open_split(named, "train").class_names == ("a", "b", "c", "d")


def test_evaluation_with_a_class_too_many(folder):
    write_parquet(folder, train=[0, 1], test=[0, 1, 2])
    assert len(open_split(DataConfig(dataset=str(folder)), "train")) == 2
    assert_refused(folder, "eval", "labels from 0 to 2", "expected 0 to 1")


def test_only_evaluation_images(folder):
    write_parquet(folder, test=[0, 1, 2])
    assert open_split(DataConfig(dataset=str(folder)), "eval").class_names == ("0", "1", "2")
    assert_refused(folder, "train", "splits test", "expected one of train")


def test_parquet_without_evaluation_images(folder):
    write_parquet(folder, train=[0, 1])
    assert_refused(folder, "eval", "splits train", "validation, val, valid, test")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["cat", None], ["'label'", "is empty in row 1 (from 0)", "fill in"]),
        ([0.0, 1.0], ["holds float", "expected class numbers from 0"]),
        ([0, None, 1], ["expected class numbers from 0"]),
        ([0, -1, 1], ["labels from -1 to 1", "expected 0 to 1"]),
        ([0, 2, 3], ["no image of class 1"]),
        ([1, 2], ["no image of class 0"]),
        ([], ["could not be loaded", "got 0"]),
    ],
    ids=str,
)
def test_parquet_with_labels_that_do_not_do(folder, labels, words):
    write_parquet(folder, train=labels)
    assert_refused(folder, "train", *words)


def test_parquet_with_names_as_labels(folder):
    write_parquet(folder, train=["dog", "cat", "dog", "ant"], test=["dog", "cat"])
    train, evaluation = (open_split(DataConfig(dataset=str(folder)), split) for split in ("train", "eval"))
    assert train.class_names == evaluation.class_names == ("ant", "cat", "dog")
    assert train.labels.tolist() == [2, 1, 2, 0]
    assert evaluation.labels.tolist() == [2, 1]
    write_parquet(folder, train=["dog", "cat"], test=["dog", "eel"])
    assert_refused(folder, "eval", "(test) has images of eel", "training images have none")


@pytest.mark.parametrize("both", [True, False])
def test_what_save_to_disk_has_written(tmp_path, both):
    labels = [0, 1, 2, 1, 0, 2]
    pictures = [Image.new("RGB", (6 + number, 5), COLORS[label]) for number, label in enumerate(labels)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    loaded = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    saved = datasets.DatasetDict(train=loaded, test=loaded.select([2, 0])) if both else loaded
    saved.save_to_disk(str(tmp_path / "saved"))
    config = DataConfig(dataset=str(tmp_path / "saved"), val_fraction=None if both else 0.4)
    train, evaluation = open_split(config, "train"), open_split(config, "eval")
    assert (len(train), len(evaluation)) == ((6, 2) if both else (3, 3))
    for images in (train, evaluation):
        for picture, label in (images[i] for i in range(len(images))):
            assert_color(picture, COLORS[label])
    assert has_evaluation_images(config) == both
    if not both:
        assert len(open_split(DataConfig(dataset=config.dataset), "eval")) == 6
        assert_refused(config.dataset, "train", "the splits all", "to hold out a share of all")


def test_parquet_file(folder):
    write_parquet(folder, train=["dog", "cat", "dog"])
    images = open_split(DataConfig(dataset=str(folder / "train.parquet")), "eval")
    assert images.labels.tolist() == [1, 0, 1]


def test_folder_of_pictures_that_metadata_names(tmp_path):
    for split, names in (("train", ["dog", "cat", "dog"]), ("test", ["cat"])):
        (tmp_path / "pets" / split).mkdir(parents=True)
        rows = ["file_name,label"]
        for number, name in enumerate(names):
            Image.new("RGB", (6, 5), COLORS[name == "dog"]).save(tmp_path / "pets" / split / f"{number}.png")
            rows.append(f"{number}.png,{name}")
        (tmp_path / "pets" / split / "metadata.csv").write_text("\n".join(rows))
    for split, number in (("train", 3), ("eval", 1)):
        images = open_split(DataConfig(dataset=str(tmp_path / "pets")), split)
        assert images.class_names == ("cat", "dog")
        assert len(images) == number
        for picture, label in (images[i] for i in range(number)):
            assert_color(picture, COLORS[label])


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c", "d")])
def test_wrong_number_of_class_names(folder, names):
    write_parquet(folder, train=[0, 1, 2], test=[0])
    for split in ("train", "eval"):
        assert_refused(folder, split, f"data.class_names has {len(names)} names", "3 classes", class_names=names)


def test_wrong_number_of_class_names_of_a_folder(tmp_path):
    write_folder(tmp_path, train={"cat": 1, "dog": 1})
    assert_refused(tmp_path, "train", "data.class_names has 3 names", "2 classes", class_names=("a", "b", "c"))


def test_column_without_images(folder):
    write_parquet(folder, train=[0, 1])
    assert_refused(folder, "train", "'label'", "does not hold images", image_column="label")


def test_damaged_image_in_parquet(folder):
    folder.mkdir()
    images = [encoded(COLORS[0]), {"bytes": b"no image", "path": None}, None]
    pq.write_table(pa.table({"image": images, "label": [0, 0, 0]}), folder / "train.parquet")
    split = open_split(DataConfig(dataset=str(folder)), "train")
    assert_color(split[0][0], COLORS[0])
    for i in (1, 2):
        with pytest.raises(SenetError) as caught:
            split[i]
        assert_one_sentence(caught.value, f"image {i} of {folder} (train) cannot be read")


def test_file_that_is_not_parquet(folder):
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"PAR0")
    assert_refused(folder, "train", folder / "train.parquet", "cannot be read as parquet", "restore it")


def test_saved_file_that_is_cut(folder, tmp_path):
    write_parquet(folder, train=[0, 1])
    datasets.load_dataset(str(folder))["train"].save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:200])
    assert_refused(tmp_path / "saved", "eval", "could not be loaded", f"restore {file}, which is damaged")


def test_parquet_whose_splits_number_their_classes_otherwise(folder):
    """As `class_encode_column` of each split does where one has not all classes."""
    for split, names, labels in (("train", ["a", "b", "c"], [0, 1, 2]), ("validation", ["c", "a"], [0, 0, 1])):
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
        rows = {"image": [encoded(COLORS[label]) for label in labels], "label": labels}
        path = folder / f"{split}.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    held = open_split(DataConfig(dataset=str(folder)), "eval")
    assert [held.class_names[label] for label in held.labels.tolist()] == ["c", "c", "a"]
    (folder / "validation.parquet").rename(folder / "train-00001.parquet")
    (folder / "train.parquet").rename(folder / "train-00000.parquet")
    assert_refused(folder, "train", folder / "train-00001.parquet", "numbers the classes of its column 'label'")


def test_pictures_of_both_splits_described_in_one_file_name_that_file(folder):
    """Of these `load_dataset("imagefolder")` reads train and validation as classes, and labels that are all None."""
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        (folder / split / "0.png").write_bytes(encoded(COLORS[0])["bytes"])
    (folder / "metadata.csv").write_text("file_name,label\ntrain/0.png,cat\nvalidation/0.png,dog\n")
    for split in ("train", "eval"):
        assert_refused(folder, split, f"if {folder / 'metadata.csv'} says the classes of its pictures, name that file")
    assert len(open_split(DataConfig(dataset=str(folder / "metadata.csv")), "eval")) == 2


def test_a_table_beside_classes_changes_nothing(folder):
    """Also where the images to evaluate on are of one class."""
    write_folder(folder, train={"cat": 1, "dog": 1}, val={"cat": 2})
    (folder / "labels.csv").write_text("image,label\n")
    assert len(open_split(DataConfig(dataset=str(folder)), "eval")) == 2
    assert len(open_split(DataConfig(dataset=str(folder)), "train")) == 2


def test_hub_data_set_without_images(monkeypatch):
    empty = datasets.Dataset.from_dict({"image": [encoded(COLORS[0])], "label": [0]}).select([])
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(train=empty))
    assert_refused("hf:nobody/nothing", "train", "nobody/nothing (train) has no images")


def test_hub_without_network():
    assert_refused("hf:nobody/nothing", "train", "hf:nobody/nothing could not be loaded", "the connection")


@pytest.mark.parametrize("name", ["cifar11", "no/such/folder"])
def test_unknown_data_set(name):
    assert_refused(name, "train", f"data.dataset is '{name}'", "digits, cifar10", "hf:OWNER/NAME")


# ---- worker processes that are not forked


def test_splits_can_be_pickled(tmp_path, folder):
    write_parquet(folder, train=[0, 1, 2])
    write_folder(tmp_path / "pets", train={"cat": 1, "dog": 2})
    for dataset in ("digits", folder, tmp_path / "pets"):
        split = open_split(DataConfig(dataset=str(dataset)), "train")
        copy = pickle.loads(pickle.dumps(split))
        assert len(copy) == len(split)
        image, label = copy[1]
        expected, expected_label = split[1]
        assert (image.tobytes(), label) == (expected.tobytes(), expected_label)


# ---- labels without reading


def test_labels_are_those_that_reading_gives(tmp_path, folder):
    write_parquet(folder, train=[0, 2, 1, 2])
    write_folder(tmp_path / "pets", train={"cat": 1, "dog": 3})
    for dataset in ("digits", folder, tmp_path / "pets"):
        split = open_split(DataConfig(dataset=str(dataset)), "train")
        names = tuple(reversed(split.class_names))
        turned = split.relabeled(range(len(names))[::-1], names)
        for images in (split, turned):
            read = [images[i][1] for i in range(len(images))]
            assert images.labels.dtype == np.int64
            assert images.labels.tolist() == read
    assert open_split(DataConfig(dataset=str(tmp_path / "pets" / "train" / "dog")), "eval").labels is None


# ---- one reader


def turned_and_wide():
    """Return the bytes of a picture on its side and of one with 16 bits, and how each is meant."""
    pixels = np.arange(0, 240, 8, dtype=np.uint8).reshape(5, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for image, options in ((Image.fromarray(pixels), {"exif": exif}), (Image.fromarray(pixels * np.uint16(257)), {})):
        data = io.BytesIO()
        image.save(data, "PNG", **options)
        files.append(data.getvalue())
    return files, [np.rot90(pixels, -1), pixels]


def assert_both_meant(split):
    _, meant = turned_and_wide()
    for i, expected in enumerate(meant):
        picture, label = split[i]
        assert label == i
        assert np.array_equal(np.asarray(to_channels(picture, 1)), expected)


def test_parquet_files_and_folders_and_torchvision_s_are_read_alike(tmp_path, folder, monkeypatch):
    files, _ = turned_and_wide()
    folder.mkdir()
    rows = [{"bytes": data, "path": None} for data in files]
    pq.write_table(pa.table({"image": rows, "label": [0, 1]}), folder / "train.parquet")
    assert_both_meant(open_split(DataConfig(dataset=str(folder)), "train"))
    for i, data in enumerate(files):
        path = tmp_path / "pets" / "train" / str(i) / "x.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    assert_both_meant(open_split(DataConfig(dataset=str(tmp_path / "pets")), "train"))

    def imagenet(root, split):
        dataset = torchvision.datasets.ImageFolder(root / split)
        dataset.classes = [(name, "synonym") for name in dataset.classes]
        return dataset

    monkeypatch.setattr(torchvision.datasets, "ImageNet", imagenet)
    images = open_split(DataConfig(dataset="imagenet", root=tmp_path / "pets"), "train")
    assert images.class_names == ("0", "1")
    assert_both_meant(images)


def test_parquet_with_paths(tmp_path, folder):
    files, _ = turned_and_wide()
    rows = []
    for i, data in enumerate(files):
        (tmp_path / f"{i}.png").write_bytes(data)
        rows.append({"bytes": None, "path": str(tmp_path / f"{i}.png")})
    folder.mkdir()
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(rows, kind), "label": [0, 1]}), folder / "train.parquet")
    assert_both_meant(open_split(DataConfig(dataset=str(folder)), "train"))


def test_hidden_parquet_files_are_none(tmp_path):
    write_folder(tmp_path, train={"cat": 1, "dog": 1})
    (tmp_path / "train" / "._0.parquet").write_text("")
    assert open_split(DataConfig(dataset=str(tmp_path)), "train").class_names == ("cat", "dog")
