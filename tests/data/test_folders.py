"""Folders of images as people have them: hidden entries, other formats, numbers, groups, missing parts."""

import logging
import os
import shutil

import pytest
import torch
from PIL import Image

from senet.data.config import DataConfig
from senet.data.datasets import open_split
from senet.data.loading import load_data
from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError

GRAY = Preprocessing(image_size=4, resize=4, mean=(0.0,), std=(1.0,))


def write(root, *paths):
    for number, path in enumerate(paths):  # no two pictures alike: copies are never divided
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".png", ".gif", ".webp", ".avif", ".jpg"):
            Image.new("L", (4, 4), number).save(file)
        else:
            file.write_text("not an image")
    return root


def opened(root, split="train", **options):
    return open_split(DataConfig(dataset=str(root), preprocessing=GRAY, **options), split)


def load(root, **options):
    config = DataConfig(dataset=str(root), preprocessing=GRAY, num_workers=0, **options)
    return load_data(config, batch_size=2, device=torch.device("cpu"))


@pytest.fixture
def said(caplog):
    """Return the warnings so far, as one text."""
    caplog.set_level(logging.WARNING, "senet")
    return lambda: "\n".join(record.message for record in caplog.records if record.name.startswith("senet"))


HIDDEN = (".ipynb_checkpoints/a.png", "__MACOSX/cat/a.png", "@eaDir/a.png", ".cache/b.png", "cat/.cache/1.png")
JUNK = ("cat/._0.png", "cat/.DS_Store", "cat/Thumbs.db", "cat/deep/._1.png", ".DS_Store", "._cat", "cat/__MACOSX/x.png")


@pytest.mark.parametrize("split", ["train", "eval"])
def test_hidden_entries_are_neither_classes_nor_images(tmp_path, split, said):
    for part in ("train", "val"):
        write(tmp_path / part, "cat/0.png", "cat/deep/1.png", "dog/0.png", *HIDDEN, *JUNK)
    write(tmp_path, ".train/wolf/0.png", "__MACOSX/train/wolf/0.png")
    images = opened(tmp_path, split)
    assert (images.class_names, len(images)) == (("cat", "dog"), 3)
    assert "2 hidden" in said()  # ._0.png and ._1.png; what is in hidden folders is not looked at


def test_hidden_entries_of_a_folder_to_evaluate_on(tmp_path):
    root = write(tmp_path / "a", "cat/0.png", "dog/0.png", *HIDDEN, *JUNK)
    assert opened(root, "eval").class_names == ("cat", "dog")
    unlabeled = write(tmp_path / "b", "0.png", "._0.png", ".ipynb_checkpoints/0.png", "__MACOSX/0.png")
    images = opened(unlabeled, "eval")
    assert (images.class_names, len(images)) == ((), 1)


def test_a_class_may_be_called_train(tmp_path):
    """COCO and VOC have trains; a folder of pictures alone beside others is a class, one of folders is a split."""
    classes = write(tmp_path / "a", *(f"{name}/{i}.png" for name in ("bus", "car", "train") for i in range(4)))
    for split, number in (("train", 9), ("eval", 3)):
        images = opened(classes, split, val_fraction=0.25)
        assert (images.class_names, len(images)) == (("bus", "car", "train"), number)
    assert opened(classes, "eval").class_names == ("bus", "car", "train")
    with pytest.raises(SenetError, match=r"has no folder train/ .*set data.val_fraction"):
        opened(classes, "train")
    write(classes, "val/bus/0.png")
    with pytest.raises(SenetError, match="train has no folders of images"):
        opened(classes, "train")


def test_a_link_that_leads_back_is_neither_class_nor_folder_of_images(tmp_path, said):
    write(tmp_path, *(f"{name}/{i}.png" for name in ("ash", "elm") for i in range(3)))
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "ash" / "up").symlink_to("..")
    (tmp_path / "oak").symlink_to("elm")
    splits = [opened(tmp_path, split, val_fraction=0.3) for split in ("train", "eval")]
    assert splits[0].class_names == ("ash", "elm", "oak")
    assert sum(map(len, splits)) == 9
    assert all(f"{tmp_path / link}: left out, for it is a link to" in said() for link in ("self", "ash/up"))


def test_what_is_left_out_is_counted(tmp_path, said):
    names = ("0.png", "notes.txt", "more.TXT", "README", "film.mp4", "moving.gif", "small.webp", "new.avif")
    write(tmp_path / "train", *(f"cat/{name}" for name in names), "dog/0.png", "loose.png")
    images = opened(tmp_path)
    assert sorted(file.rpartition("/")[2] for file, label in images.files if label == 0) == sorted(
        ["0.png", "moving.gif", "small.webp", "new.avif"]
    )
    assert "left out 5 files" in said()
    for reason in ("2 .txt", "1 without extension", "1 .mp4", "1 images outside the folders of classes"):
        assert reason in said()


def test_formats_that_need_a_package_say_so(tmp_path, said, monkeypatch):
    monkeypatch.setattr("senet.data.reading.can_read", lambda needed: needed != "heif")
    write(tmp_path / "train", "cat/0.png", "cat/1.heic", "cat/2.HEIC", "dog/0.png", "dog/1.heic")
    assert len(opened(tmp_path)) == 2
    assert "3 .heic (pip install 'senet[heif]')" in said()
    (tmp_path / "train" / "dog" / "0.png").unlink()
    with pytest.raises(SenetError, match=r"no images in dog/ .*1 \.heic \(pip install"):
        opened(tmp_path)


def test_nothing_is_said_of_a_tidy_folder(tmp_path, said):
    for split in ("train", "val"):
        write(tmp_path / split, "cat/0.png", "cat/deep/1.png", "dog/0.png")
    load(tmp_path)
    assert said() == ""


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ([str(i) for i in range(12)], [str(i) for i in range(12)]),
        ([f"{i:02}" for i in range(12)], [f"{i:02}" for i in range(12)]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["2", "10", "-1"], ["-1", "10", "2"]),
    ],
)
def test_classes_that_are_all_numbers_are_in_their_order(tmp_path, names, order):
    for split in ("train", "val"):
        write(tmp_path / split, *(f"{name}/0.png" for name in names))
        images = opened(tmp_path, "train" if split == "train" else "eval")
        assert images.class_names == tuple(order)
        for file, label in images.files:
            assert f"/{order[label]}/" in file


def test_one_class_alone_is_refused(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split, "cat/0.png", "cat/1.png")
    with pytest.raises(SenetError, match=r"train has only one class \(cat, 2 images\); a classifier needs two"):
        load(tmp_path)


def test_a_folder_above_both_splits_names_the_folder_of_both(tmp_path, said):
    write(tmp_path / "mine" / "train", "cat/0.png", "dog/0.png")
    write(tmp_path / "mine" / "val", "cat/1.png", "dog/1.png")
    with pytest.raises(
        SenetError, match=rf"only one class \(mine, 2 images\); .*: name {tmp_path / 'mine'}, which has"
    ):
        load(tmp_path, val_fraction=0.5)
    assert f"name {tmp_path / 'mine'} in place of {tmp_path}" in said()


def test_groups_of_classes_are_pointed_out(tmp_path, said):
    write(tmp_path / "train", "animals/cat/0.png", "animals/dog/0.png", "plants/oak/0.png", "plants/elm/0.png")
    assert opened(tmp_path).class_names == ("animals", "plants")
    assert "animals, plants contain no images but folders of images; animals (cat, dog)" in said()
    for name in ("cat", "dog", "oak", "elm"):  # the remedy
        (folder,) = (tmp_path / "train").glob(f"*/{name}")
        shutil.move(folder, tmp_path / "train" / name)
    for name in ("animals", "plants"):
        (tmp_path / "train" / name).rmdir()
    assert opened(tmp_path).class_names == ("cat", "dog", "elm", "oak")


def test_a_class_that_is_spelled_in_two_ways(tmp_path):
    write(tmp_path, "train/Cat/0.png", "train/dog/0.png", "val/cat/0.png", "val/dog/0.png")
    with pytest.raises(SenetError, match=r"val/cat is called Cat in .*train; give a class one name"):
        opened(tmp_path, "eval")


def test_splits_below_the_classes_are_pointed_out(tmp_path, said):
    write(tmp_path / "a", *(f"{name}/{split}/0.png" for name in ("cat", "dog") for split in ("Train", "val")))
    opened(tmp_path / "a", "eval")
    assert f"put them above the classes, as in {tmp_path}/a/Train/cat" in said()
    write(tmp_path / "b", *(f"pets/{split}/{name}/0.png" for name in ("cat", "dog") for split in ("train", "val")))
    opened(tmp_path / "b", "eval")
    assert f"on, name {tmp_path}/b/pets in place of {tmp_path}/b" in said()
    assert opened(tmp_path / "b" / "pets").class_names == ("cat", "dog")  # the remedy


@pytest.mark.parametrize("empty", [True, False])
def test_a_class_missing_in_the_evaluation_images_is_said(tmp_path, said, empty):
    write(tmp_path / "train", "cat/0.png", "dog/0.png", "emu/0.png")
    write(tmp_path / "val", "cat/0.png", "emu/0.png")
    if empty:
        (tmp_path / "val" / "dog").mkdir()
    images = opened(tmp_path, "eval")
    assert images.class_names == ("cat", "dog", "emu")
    assert [label for _, label in images.files] == [0, 2]
    assert f"{tmp_path / 'val'} has no images of dog, which {tmp_path / 'train'} has" in said()
    assert load(tmp_path).class_names == ("cat", "dog", "emu")


def test_a_class_missing_in_the_training_images_is_refused(tmp_path):
    write(tmp_path / "train", "cat/0.png", "dog/0.png")
    write(tmp_path / "val", "cat/0.png", "dog/0.png", "emu/0.png")
    with pytest.raises(SenetError, match=r"different classes: emu only in .*val; add images"):
        load(tmp_path)


CLASSES = {"cat": 20, "dog": 11, "emu": 2}


@pytest.mark.parametrize("below", ["", "train"])
def test_a_share_of_each_class_is_held_out(tmp_path, below):
    write(tmp_path / "pets" / below, *(f"{name}/{i}.png" for name, count in CLASSES.items() for i in range(count)))
    train, held = (opened(tmp_path / "pets", split, val_fraction=0.25) for split in ("train", "eval"))
    assert train.class_names == held.class_names == tuple(CLASSES)
    assert [[label for _, label in images.files].count(k) for images in (train, held) for k in range(3)] == [
        *(15, 8, 1),
        *(5, 3, 1),
    ]
    assert not set(train.files) & set(held.files)
    shutil.copytree(tmp_path / "pets", tmp_path / "elsewhere" / "copy")
    again = opened(tmp_path / "elsewhere" / "copy", "eval", val_fraction=0.25)
    assert [file.split("/")[-2:] for file, _ in again.files] == [file.split("/")[-2:] for file, _ in held.files]


def test_a_folder_without_val_offers_to_hold_out_a_share(tmp_path):
    write(tmp_path / "a" / "train", *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(4)))
    with pytest.raises(SenetError, match=r"no folder val/ \(found: train\); set data\.val_fraction, such as 0\.2"):
        load(tmp_path / "a")
    write(tmp_path / "b", *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(4)))
    with pytest.raises(SenetError, match=r"no folder train/ \(found: cat, dog\); set data\.val_fraction, such as 0\.2"):
        load(tmp_path / "b")
    for root in ("a", "b"):
        assert len(load(tmp_path / root, val_fraction=0.2).evaluation.labels) == 2


def test_a_share_that_has_no_effect_is_refused(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split, "cat/0.png", "dog/0.png")
    with pytest.raises(SenetError, match=r"data\.val_fraction has no effect on .*, which has val/; leave it out"):
        opened(tmp_path, val_fraction=0.2)
    with pytest.raises(SenetError, match=r"val_fraction has no effect on digits, which has its own; leave it out"):
        opened("digits", val_fraction=0.2)
    write(tmp_path / "one", "cat/0.png", "dog/0.png", "dog/1.png")
    with pytest.raises(SenetError, match=r"cat/0\.png is the only image of its class"):
        opened(tmp_path / "one", val_fraction=0.2)


def test_images_that_do_not_fit_are_refused_when_the_data_are_opened(tmp_path):
    write(tmp_path / "train", "cat/0.png", "dog/0.png")
    four = Preprocessing(image_size=4, resize=4, mean=(0.0,) * 4, std=(1.0,) * 4)
    with pytest.raises(SenetError, match=r"cat/0\.png has 1 channel \(L\), but the network takes 4"):
        open_split(DataConfig(dataset=str(tmp_path), preprocessing=four), "train")
    with pytest.raises(SenetError, match=r"image 0 of digits \(train\) has 1 channel \(L\), but the network takes 4"):
        open_split(DataConfig(dataset="digits", preprocessing=four), "train")
    (tmp_path / "train" / "dog" / "0.png").write_text("no")
    with pytest.raises(SenetError, match=r"dog/0\.png cannot be read \(it is not an image in a known format\)"):
        opened(tmp_path)


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_image_that_does_not_fit_among_others_is_named(tmp_path, in_memory):
    for split in ("train", "val"):
        write(tmp_path / split, "cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
    Image.new("F", (4, 4)).save(tmp_path / "val" / "dog" / "z.tif")
    with pytest.raises(SenetError, match=r"^.*dog/z\.tif has floating-point values.*16 without a sign$"):
        list(load(tmp_path, in_memory=in_memory).evaluation.batches(0))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_that_is_called_like_a_picture_is_not_waited_for(tmp_path, said):
    write(tmp_path / "val", "cat/0.png", "dog/0.png")
    os.mkfifo(tmp_path / "val" / "dog" / "1.png")
    assert len(open_split(DataConfig(dataset=str(tmp_path)), "eval")) == 2
    assert "left out 1 file that is not read as an image: 1 that are no files but pipes or devices" in said()
