"""CSV files that name pictures and their classes, as pandas, Excel and competitions write them."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from senet.data.config import DataConfig
from senet.data.datasets import has_evaluation_images, open_split
from senet.data.survey import survey
from senet.errors import MissingFileError, SenetError

COLORS = {"cat": (200, 20, 20), "dog": (20, 200, 20), "été": (20, 20, 200)}
ROWS = [(f"{name}{number}", name) for name in COLORS for number in range(5)]


def write_pictures(folder, extension=".png"):
    """Write a picture for each row, in a color that tells its class."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, label) in enumerate(ROWS):
        Image.new("RGB", (6 + number, 5), COLORS[label]).save(folder / f"{name}{extension}")


def table(columns, path, **options):
    pd.DataFrame(ROWS, columns=columns).to_csv(path, index=False, **options)
    return path


def check(path, number, split="eval", **options):
    """Open a table and compare each picture's color with its class."""
    images = open_split(DataConfig(dataset=str(path), **options), split)
    assert len(images) == number
    assert images.class_names == tuple(COLORS)
    for index in range(number):
        picture, label = images[index]
        assert picture.getpixel((2, 2)) == COLORS[images.class_names[label]]
    return images


def refused(path, *words, split="eval", kind=SenetError, **options):
    with pytest.raises(kind) as caught:
        open_split(DataConfig(dataset=str(path), **options), split)
    assert "\n" not in str(caught.value)
    for word in words:
        assert str(word) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{}, {"sep": ";", "encoding": "utf-8-sig"}, {"sep": "\t", "encoding": "utf-16"}, {"lineterminator": "\r\n"}],
    ids=["pandas", "Excel", "Unicode text", "Windows"],
)
def test_pictures_without_extension_in_a_folder_beside_the_table(tmp_path, options):
    write_pictures(tmp_path / "train_images")
    check(table(["image_id", "class"], tmp_path / "train.csv", **options), 15)


def test_columns_by_their_names(tmp_path):
    write_pictures(tmp_path)
    rows = pd.DataFrame(ROWS, columns=["name", "breed"])
    rows.insert(1, "site", 3)
    rows.to_csv(tmp_path / "table.csv")  # with the index, as the first column
    refused(tmp_path / "table.csv", "columns , name, site, breed", "data.label_column, which is 'label'")
    refused(tmp_path / "table.csv", "15 pictures not to be found", "data.image_column", label_column="breed")
    check(tmp_path / "table.csv", 15, image_column="name", label_column="breed")
    rows.rename(columns={"name": "image", "breed": "label"}).to_csv(tmp_path / "usual.csv")
    check(tmp_path / "usual.csv", 15)
    refused(tmp_path / "usual.csv", "data.image_column is 'picture'", image_column="picture")


def test_label_first_in_a_table_of_two_columns(tmp_path):
    write_pictures(tmp_path)
    pd.DataFrame([(label, name) for name, label in ROWS], columns=["breed", "image"]).to_csv(
        tmp_path / "table.csv", index=False
    )
    check(tmp_path / "table.csv", 15)


def test_table_without_heading(tmp_path):
    write_pictures(tmp_path / "pictures", ".jpg.png")  # a name with a dot of its own
    with (tmp_path / "list.csv").open("w") as file:
        file.writelines(f"pictures/{name}.jpg.png,{label}\n" for name, label in ROWS)
    check(tmp_path / "list.csv", 15)


def test_pictures_that_are_not_there_or_twice(tmp_path):
    write_pictures(tmp_path / "a")
    path = table(["id", "label"], tmp_path / "table.csv")
    (tmp_path / "a" / "cat3.png").unlink()
    refused(path, "1 picture not to be found", "cat3", kind=MissingFileError)
    write_pictures(tmp_path / "b")
    refused(path, "cat0, which may be", "a/cat0.png", "b/cat0.png", "write its folder before it")
    pd.DataFrame([(f"b/{name}", label) for name, label in ROWS]).to_csv(path, index=False)
    check(path, 15)


def test_a_picture_in_another_folder_is_not_taken_for_one_that_is_missing(tmp_path):
    write_pictures(tmp_path / "a")
    pd.DataFrame([(f"b/{name}.png", label) for name, label in ROWS]).to_csv(tmp_path / "table.csv", index=False)
    refused(tmp_path / "table.csv", "15 pictures not to be found", "b/cat0.png")


def test_windows_paths_accents_of_macos_and_paths_from_the_root(tmp_path):
    write_pictures(tmp_path / "bilder")
    decomposed = [(os.fsdecode(f"bilder\\{name}.png".replace("é", "e\u0301")), label) for name, label in ROWS]
    pd.DataFrame(decomposed).to_csv(tmp_path / "table.csv", index=False)
    check(tmp_path / "table.csv", 15)
    pd.DataFrame([(tmp_path / "bilder" / f"{name}.png", label) for name, label in ROWS]).to_csv(
        tmp_path / "table.csv", index=False
    )
    check(tmp_path / "table.csv", 15)


def test_held_out_pictures_stay_when_rows_are_added_or_sorted_otherwise(tmp_path):
    write_pictures(tmp_path)
    path = table(["id", "label"], tmp_path / "table.csv")
    options = {"val_fraction": 0.4}
    held = check(path, 6, **options)
    train = check(path, 9, split="train", **options)
    names = {name for name, _ in ROWS}
    assert set(held.held_out) | {Path(file).stem for file, _ in train.files} == names
    assert not has_evaluation_images(DataConfig(dataset=str(path)))
    pd.read_csv(path).sample(frac=1, random_state=0).to_csv(path, index=False)
    assert set(check(path, 6, **options).held_out) == set(held.held_out)
    assert set(check(path, 6, split_seed=1, **options).held_out) != set(held.held_out)
    refused(path, "data.val_fraction, such as 0.2", "column 'split'", split="train")


def test_column_that_says_the_split(tmp_path):
    write_pictures(tmp_path)
    rows = pd.DataFrame(ROWS, columns=["id", "label"])
    rows["split"] = ["Train", "train", "train", "val", "test"] * 3
    rows.to_csv(tmp_path / "table.csv", index=False)
    path = tmp_path / "table.csv"
    assert has_evaluation_images(DataConfig(dataset=str(path)))
    check(path, 9, split="train")
    held = check(path, 3)
    assert {Path(file).name for file, _ in held.files} == {"cat3.png", "dog3.png", "été3.png"}
    refused(path, "val_fraction has no effect", "the split val", val_fraction=0.2)
    found = survey(DataConfig(dataset=str(path)))
    assert (found.train_counts.tolist(), found.eval_counts.tolist()) == ([3, 3, 3], [1, 1, 1])
    assert not found.skipped


@pytest.mark.parametrize(
    ("columns", "splits"),
    [(("Image", "Label", "Split"), ("Train", "VAL")), (("fname", "label", "is_valid"), (False, True))],
    ids=["capitals", "fastai"],
)
def test_columns_as_other_programs_write_them(tmp_path, columns, splits):
    write_pictures(tmp_path)
    rows = pd.DataFrame(ROWS, columns=list(columns[:2]))
    rows[columns[2]] = [splits[number % 5 > 2] for number in range(15)]
    rows.to_csv(tmp_path / "table.csv", index=False)
    check(tmp_path / "table.csv", 9, split="train")
    check(tmp_path / "table.csv", 6)


def test_pictures_in_several_rows_are_pointed_out(tmp_path, caplog):
    """In an evaluation of a table as a whole; fine-tuning says so of all that it trains on."""
    write_pictures(tmp_path)
    (tmp_path / "table.csv").write_text("image,label\ncat0,cat\ndog0,dog\ndog0,dog\ncat0,dog\n")
    assert len(open_split(DataConfig(dataset=str(tmp_path / "table.csv")), "eval")) == 4
    said = f"has 2 pictures in several rows, such as {tmp_path / 'cat0.png'} (cat, dog); each row counts"
    assert said in caplog.text


def test_the_line_in_which_a_table_tells_excel_its_separator(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "table.csv").write_text("sep=|\nimage|label\n" + "".join(f"{a}|{b}\n" for a, b in ROWS))
    check(tmp_path / "table.csv", 15)


def test_two_tables_in_a_folder(tmp_path):
    write_pictures(tmp_path / "images")
    rows = pd.DataFrame(ROWS, columns=["id", "label"])
    rows[rows.index % 5 < 3].to_csv(tmp_path / "train.csv", index=False)
    rows[rows.index % 5 == 3].to_csv(tmp_path / "valid.csv", index=False)
    rows[["id"]].to_csv(tmp_path / "test.csv", index=False)  # of a competition: without classes
    check(tmp_path, 9, split="train")
    check(tmp_path, 3)


def test_a_class_that_only_one_side_has(tmp_path, caplog):
    write_pictures(tmp_path)
    rows = pd.DataFrame(ROWS, columns=["id", "label"])
    rows["split"] = ["val"] * 5 + ["train"] * 10
    rows.to_csv(tmp_path / "table.csv", index=False)
    refused(tmp_path / "table.csv", "table.csv (val) has pictures of cat, of which", "trains on none")
    rows["split"] = ["train"] * 10 + ["train", "train", "val", "val", "val"]
    rows.to_csv(tmp_path / "table.csv", index=False)
    check(tmp_path / "table.csv", 3)
    assert "has no pictures of cat, dog; they are not measured" in caplog.text


def test_class_numbers_are_in_numerical_order(tmp_path):
    write_pictures(tmp_path)
    number_of = {"cat": "10", "dog": "9", "été": "100"}
    pd.DataFrame([(name, number_of[label]) for name, label in ROWS]).to_csv(tmp_path / "table.csv", index=False)
    assert open_split(DataConfig(dataset=str(tmp_path / "table.csv")), "eval").class_names == ("9", "10", "100")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ("image,label\n", ["no pictures, only a heading"]),
        ("image\ncat0\n", ["only the column image"]),
        ("image,label\ncat0,\n", ["no class in row 2 (cat0,)"]),
        ("image,label\ncat0,cat\n,cat\n", ["no picture in row 3"]),
        ("image,label\ncat0,cat\ndog0\n", ["no class in row 3"]),
        ('image,label\ncat0,cat\n"dog0,dog\ncat1,cat\n', ["as CSV from row 3 on", "close its quotes"]),
        ("image,label,is_valid\ncat0,cat,maybe\n", ["'maybe' as is_valid in row 2; expected True or False"]),
        ("id,cat,dog\ncat0,1,0\n", ["columns id, cat, dog", "the one with the classes"]),
    ],
)
def test_tables_of_another_form(tmp_path, text, words):
    write_pictures(tmp_path)
    (tmp_path / "table.csv").write_text(text)
    refused(tmp_path / "table.csv", tmp_path / "table.csv", *words)


def test_table_in_another_encoding(tmp_path):
    write_pictures(tmp_path)
    content = io.StringIO("image,label\nété0,été\n").read().encode("latin-1")
    (tmp_path / "table.csv").write_bytes(content)
    refused(tmp_path / "table.csv", "cannot be read as CSV in UTF-8")


def test_rows_of_other_splits_are_pointed_out(tmp_path, caplog):
    write_pictures(tmp_path)
    rows, path = pd.DataFrame(ROWS, columns=["id", "label"]), tmp_path / "table.csv"
    rows["split"] = ["train", "train", "val", "held back", ""] * 3
    rows.to_csv(path, index=False)
    check(path, 6, split="train")
    assert not caplog.text
    check(path, 3)
    said = "6 pictures not used, for in the column 'split' they have '', 'held back'; expected train, and val"
    assert said in caplog.text
    rows["split"] = ["fit", "fit", "fit", "dev", "dev"] * 3
    rows.to_csv(path, index=False)
    for options in ({}, {"split": "train", "val_fraction": 0.4}, {"val_fraction": 0.4}):
        refused(path, "15 pictures not used", "they have 'dev', 'fit'; expected train", **options)


def test_numbers_that_were_measured_are_no_classes(tmp_path):
    write_pictures(tmp_path)
    rows, path = pd.DataFrame(ROWS, columns=["id", "label"]), tmp_path / "table.csv"
    rows["age"] = np.random.default_rng(0).uniform(0, 90, len(rows))
    rows[["id", "age"]].to_csv(path, index=False)
    refused(path, "15 different numbers in 15 rows of the column 'age'", "another column by data.label_column")
    rows.to_csv(path, index=False)
    check(path, 15, label_column="label")


def test_split_of_a_table_can_be_pickled(tmp_path):
    write_pictures(tmp_path)
    images = open_split(DataConfig(dataset=str(table(["id", "label"], tmp_path / "table.csv"))), "eval")
    assert pickle.loads(pickle.dumps(images))[4][1] == images[4][1]


def test_folder_of_loose_pictures_beside_a_table_names_the_table(tmp_path):
    write_pictures(tmp_path / "images")
    path = table(["id", "label"], tmp_path / "labels.csv")
    refused(tmp_path, "no folders of classes", f"if {path} says", split="train", val_fraction=0.2)
