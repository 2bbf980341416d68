"""Held-out images: the same on every machine, stable when images are added, copies on one side."""

import hashlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from senet.data.config import DataConfig
from senet.data.datasets import open_split
from senet.data.loading import load_data
from senet.data.preprocessing import Preprocessing
from senet.data.splitting import held_out, key_of, keys_of_files, same_contents, share_of
from senet.errors import SenetError

GRAY = Preprocessing(image_size=4, resize=4, mean=(0.0,), std=(1.0,))


def taken(by_class, fraction, seed=0, copies=()):
    """Return the held-out names of classes; `copies` are sets of names that are one picture."""
    files = [f"/data/{label}/{name}" for label, names in by_class.items() for name in names]
    labels = np.array([number for number, names in enumerate(by_class.values()) for _ in names])
    groups = np.arange(len(files))
    for same in copies:
        places = [place for place, file in enumerate(files) if file.split("/")[-1] in same]
        groups[places] = places[0]
    take = held_out(keys_of_files("/data", files, seed), groups, labels, fraction, files.__getitem__)
    return {file for file, held in zip(files, take, strict=True) if held}


@pytest.mark.parametrize("seed", range(8))
def test_adding_images_moves_as_few_as_it_must(seed):
    """In other classes none, in the same class at most as many as are added; the share stays."""
    rng = random.Random(seed)
    fraction = rng.choice([0.1, 0.2, 0.37, 0.5])
    classes = {label: [f"{label}{i}" for i in range(rng.randint(2, 40))] for label in "abc"}
    before = taken(classes, fraction, seed)
    for added in (1, 2, 7):
        more = {**classes, "b": classes["b"] + [f"new{i}" for i in range(added)]}
        old, new = before, taken(more, fraction, seed)
        assert {f for f in new if "/b/" not in f} == {f for f in old if "/b/" not in f}
        moved = {f for f in old ^ new if "new" not in f}
        assert len(moved) <= added
        held = sum("/b/" in f for f in new)
        assert held == min(max(1, round(fraction * len(more["b"]))), len(more["b"]) - 1)
    assert {f for f in taken({**classes, "d": ["x", "y"]}, fraction, seed) if "/d/" not in f} == before


def test_the_seed_chooses_and_0_is_the_names_alone():
    classes = {"a": [str(i) for i in range(30)]}
    by_hash = sorted(classes["a"], key=lambda name: hashlib.sha256(f"a/{name}".encode()).digest())
    assert taken(classes, 0.2) == {f"/data/a/{name}" for name in by_hash[:6]}
    assert len({frozenset(taken(classes, 0.2, seed)) for seed in range(10)}) == 10
    assert key_of(b"x", 1) == hashlib.sha256(b"1/x").digest()


@pytest.mark.parametrize("seed", range(5))
def test_copies_stay_together(seed):
    names = [f"p{i}" for i in range(40)]
    copies = [set(names[i : i + 4]) for i in range(0, 20, 4)]
    held = {file.split("/")[-1] for file in taken({"a": names}, 0.25, seed, copies)}
    assert all(same <= held or not same & held for same in copies)
    assert 8 <= len(held) <= 12


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ([1] * 10, 0.2, 2),
        ([9, 1], 0.2, 1),
        ([1, 2], 0.5, 1),
        ([4, 4], 0.1, 4),
        ([5, 1, 1], 0.3, 2),
        ([2, 2, 2], 0.9, 4),
    ],
)
def test_a_share_is_near_and_leaves_a_group(sizes, fraction, expected):
    numbers = iter(range(100))
    groups = [[next(numbers) for _ in range(size)] for size in sizes]
    assert len(share_of(groups, fraction)) == expected


def test_a_class_of_one_picture_is_refused():
    with pytest.raises(SenetError, match=r"^/data/b/x is the only image of its class, which data\.val_fraction cannot"):
        taken({"a": ["1", "2"], "b": ["x"]}, 0.2)
    with pytest.raises(SenetError, match=r"/b/. is, with its copies, the only picture of its class"):
        taken({"a": ["1", "2"], "b": ["x", "y"]}, 0.2, copies=[{"x", "y"}])


def test_files_of_one_content_are_found(tmp_path):
    contents = [b"a" * 9000, b"b" * 9000, b"a" * 9000, b"b" + b"a" * 8999, b"", b"", b"a"]
    files = [tmp_path / str(i) for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    names = [*map(str, files), str(tmp_path / "missing")]
    assert same_contents(names).tolist() == [0, 1, 0, 3, 4, 5, 6, 7]


# ---- data sets


def write_noise(root, counts):
    rng = np.random.default_rng(0)
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).save(root / label / f"{i}.png")


def load(dataset, **options):
    config = DataConfig(dataset=str(dataset), preprocessing=GRAY, num_workers=0, **options)
    return load_data(config, batch_size=4, device=torch.device("cpu"))


def test_what_is_held_out_of_a_folder_has_names(tmp_path):
    write_noise(tmp_path, {"cat": 12, "ünde r": 8})
    data = load(tmp_path, val_fraction=0.25, split_seed=3)
    assert len(data.held_out) == data.evaluation.order.num_images == 5
    assert all((tmp_path / name).exists() for name in data.held_out)
    assert data.counts.tolist() == [9, 6]
    again = load(tmp_path, val_fraction=0.25, split_seed=4)
    assert again.held_out != data.held_out
    train = open_split(DataConfig(dataset=str(tmp_path), preprocessing=GRAY, val_fraction=0.25, split_seed=3), "train")
    assert not {name.split("/")[-2] + "/" + name.split("/")[-1] for name, _ in train.files} & set(data.held_out)


def test_copies_of_a_file_are_on_one_side(tmp_path):
    write_noise(tmp_path, {"cat": 6, "dog": 6})
    for i in range(4):
        (tmp_path / "cat" / f"copy{i}.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    for seed in range(6):
        held = load(tmp_path, val_fraction=0.4, split_seed=seed).held_out
        same = [name in held for name in ("cat/0.png", *(f"cat/copy{i}.png" for i in range(4)))]
        assert len(set(same)) == 1


@pytest.fixture
def table(tmp_path):
    write_noise(tmp_path / "files", {"a": 20, "b": 10})
    files = [(tmp_path / "files" / label / f"{i}.png", k) for k, label in enumerate("ab") for i in range(20 - 10 * k)]
    files += files[:3]  # copies

    def write(chosen, name="table"):
        folder = tmp_path / name
        folder.mkdir()
        images = [{"bytes": file.read_bytes(), "path": None} for file, _ in chosen]
        pq.write_table(pa.table({"image": images, "label": [k for _, k in chosen]}), folder / "train.parquet")
        return folder

    return write, files


def test_a_table_without_evaluation_images_is_divided_by_contents(table):
    write, files = table
    folder = write(files)
    with pytest.raises(SenetError, match=r"has the splits train; expected .*; set data\.val_fraction, such as 0\.2"):
        load(folder)
    data = load(folder, val_fraction=0.2, in_memory=False)
    held = sorted(map(int, data.held_out))
    assert len(held) == data.evaluation.order.num_images
    assert np.bincount([files[row][1] for row in held]).tolist() in ([4, 2], [5, 2], [6, 2])
    assert (0 in held) == (30 in held)
    assert (1 in held) == (31 in held)
    other = write(files[::-1], "other")
    again = load(other, val_fraction=0.2).held_out
    assert {files[::-1][int(row)][0] for row in again} == {files[row][0] for row in held}, (
        "the order of rows changes it"
    )
    x, y = next(data.evaluation.batches(0))
    expected = np.asarray(Image.open(files[int(data.held_out[0])][0])) / 255
    np.testing.assert_allclose(x[0, 0], expected, atol=1e-6)
    assert y[0] == files[int(data.held_out[0])][1]


def test_rows_are_named_by_their_number_in_the_table(table):
    write, files = table
    images = open_split(DataConfig(dataset=str(write(files)), preprocessing=GRAY, val_fraction=0.2), "eval")
    assert images.name(0) == f"image {images.held_out[0]} of {images.source}"
