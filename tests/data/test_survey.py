"""What a survey finds in folders as people keep them, and in tables: counts, kinds, copies, leaks, damage."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from senet.data import survey as module
from senet.data.config import DataConfig
from senet.data.preprocessing import Preprocessing
from senet.data.survey import survey
from senet.errors import SenetError

RGB = Preprocessing(image_size=8, resize=8, mean=(0.0,) * 3, std=(1.0,) * 3)


def look(root, preprocessing=RGB, **options):
    return survey(DataConfig(dataset=str(root), preprocessing=preprocessing, **options))


def noise(seed, width=9, height=8, channels=3, dtype=np.uint8):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


def write(root, seed=0, **classes):
    """Write so many pictures of each class, all different."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed += 1
            Image.fromarray(noise(seed)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def pets(tmp_path):
    write(tmp_path / "train", cat=12, dog=4, emu=1)
    write(tmp_path / "val", seed=100, cat=6, dog=5, emu=2)
    return tmp_path


def test_a_tidy_folder(pets):
    found = look(pets)
    assert found.class_names == ("cat", "dog", "emu")
    assert found.train_counts.tolist() == [12, 4, 1]
    assert found.eval_counts.tolist() == [6, 5, 2]
    assert found.imbalance == 12
    assert found.sizes == ((9, 8),) * 3
    assert dict(found.kinds) == {"color": 30}
    assert dict(found.formats) == {"PNG": 30}
    assert (found.num_images, found.num_looked_at, found.num_decoded) == (30, 30, 30)
    assert (found.skipped, found.unusable, found.unused) == ("", (), ())
    assert (found.copies, found.eval_copies, found.leaks, found.contradictions) == ((), (), (), ())
    found.check()
    text = str(found)
    assert "3 classes, 17 training images, 13 evaluation images" in text
    assert "largest class: 12 times the smallest" in text
    assert "sizes: 9x8\n" in text
    assert "looked at" not in text
    assert "fewer than 5 evaluation images of emu: " in text
    assert "a single training image of emu: " in text


def test_copies_leaks_and_contradictions(pets):
    for copy in ("train/cat/copy.png", "val/cat/leak.png", "val/dog/leak too.png"):
        shutil.copy(pets / "train/cat/0.png", pets / copy)
    pixels = Image.open(pets / "train/dog/1.png")
    pixels.save(pets / "train/dog/same pixels.bmp")
    shutil.copy(pets / "val/emu/0.png", pets / "val/emu/again.png")
    found = look(pets)
    assert [set(group) for group in found.eval_copies] == [
        {str(pets / "val/emu/0.png"), str(pets / "val/emu/again.png")}
    ]
    assert [set(group) for group in found.copies] == [
        {str(pets / "train/cat/0.png"), str(pets / "train/cat/copy.png")},
        {str(pets / "train/dog/1.png"), str(pets / "train/dog/same pixels.bmp")},
    ]
    assert {a for a, _ in found.leaks} == {str(pets / "val/cat/leak.png"), str(pets / "val/dog/leak too.png")}
    assert len(found.contradictions) == 1
    assert len(found.contradictions[0]) == 4
    notes = " ".join(found.warnings())
    assert "2 evaluation images also among the training images, such as " in notes
    assert "1 picture in several classes" in notes
    assert "2 training images the same as others" in notes
    assert "1 evaluation image the same as others, such as " in notes
    found.check()  # warnings, no errors


def test_held_out_images_and_what_is_not_used(tmp_path):
    write(tmp_path / "a", cat=10, dog=10)
    found = look(tmp_path / "a", val_fraction=0.2)
    assert found.held_out
    assert found.eval_counts.tolist() == [2, 2]
    assert "4 evaluation images (held out)" in str(found)
    for part, seed in (("train", 0), ("val", 100), ("test", 200)):
        write(tmp_path / "b" / part, seed=seed, cat=6, dog=6)
    (tmp_path / "b" / "train" / "cat" / "notes.txt").write_text("x")
    found = look(tmp_path / "b")
    assert found.unused == ("test",)
    assert "not used: test/" in str(found)
    assert found.skipped == "1 .txt"


def test_kinds_are_told_apart(pets):
    folder = pets / "train" / "dog"
    Image.fromarray(noise(900, channels=1)).save(folder / "gray.png")
    Image.fromarray(noise(901, channels=1, dtype=np.uint16)).save(folder / "deep.png")
    Image.fromarray(noise(902)).convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(noise(903, channels=4)).save(folder / "clear.png")
    Image.fromarray(noise(904)).quantize(16).save(folder / "few.gif")
    frames = [Image.fromarray(noise(seed)) for seed in (905, 906)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    np.save(folder / "array.npy", noise(907))
    found = look(pets)
    assert found.kinds["color"] == 30
    assert found.kinds["gray"] == found.kinds["gray, 16 bits"] == found.kinds["CMYK"] == 1
    assert found.kinds["color with transparency"] == found.kinds["palette"] == found.kinds["3 channels"] == 1
    assert [kind for kind in found.kinds if "the first of several frames" in kind]
    assert sum(found.kinds.values()) == 37
    assert not found.unusable


@pytest.mark.parametrize("decode", [True, False])
def test_every_damaged_image_is_named_at_once(pets, decode, monkeypatch):
    """By header and end alone too."""
    if not decode:
        monkeypatch.setattr(module, "DECODED_BYTES", 1)
    bad = {"empty.jpg": b"", "text.png": b"not an image", "odd.gif": b"GIF89a"}
    Image.fromarray(noise(1, 64, 64)).save(pets / "whole.jpg")
    bad["short.jpg"] = (pets / "whole.jpg").read_bytes()[:-300]
    bad["short.png"] = (pets / "train/cat/0.png").read_bytes()[:-40]
    for name, content in bad.items():
        (pets / "train" / "dog" / name).write_bytes(content)
    (pets / "whole.jpg").unlink()
    (pets / "train" / "cat" / "gone.png").symlink_to(pets / "nowhere.png")
    Image.fromarray(np.ones((8, 8), np.float32)).save(pets / "train" / "cat" / "float.tif")
    found = look(pets)
    assert len(found.unusable) == 7
    with pytest.raises(SenetError) as caught:
        found.check()
    message = str(caught.value)
    assert message.startswith("7 images cannot be used: ")
    assert "\n" not in message
    for name in (*bad, "gone.png", "float.tif"):
        assert name in message
    monkeypatch.setattr(module, "NAMED", 2)
    with pytest.raises(SenetError, match=r"; and 5 more$"):
        found.check()


def test_one_picture_everywhere_is_refused(tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (4, 4), "red").save(tmp_path / part / name / f"{i}.png")
    with pytest.raises(SenetError, match=r"^all 6 training images of .* are the same picture; check how"):
        look(tmp_path).check()


def test_a_large_data_set_is_sampled_and_says_so(pets, monkeypatch):
    monkeypatch.setattr(module, "HEADERS", 10)
    monkeypatch.setattr(module, "DECODED_BYTES", 900)
    shutil.copy(pets / "train/cat/3.png", pets / "val/cat/leak.png")
    found = look(pets)
    assert found.train_counts.tolist() == [12, 4, 1]
    assert found.num_looked_at in (9, 10, 11)
    assert 2 <= found.num_decoded < 9
    assert f"header and end of {found.num_looked_at} of 31 images, of which {found.num_decoded} were" in str(found)
    assert [names[0].split("/")[-1] for names in found.leaks] == ["leak.png"], "files are compared all the same"


def test_many_classes_are_shown_in_part(tmp_path):
    for part, seed in (("train", 0), ("val", 1000)):
        write(tmp_path / part, seed=seed, **{f"c{i:02}": 1 + i // 4 for i in range(24)})
    text = str(look(tmp_path))
    assert "... 4 more ..." in text
    assert " c23 " in text
    assert " c14 " not in text


def test_a_table(tmp_path):
    write(tmp_path / "files", a=8, b=4)
    rows = [(path, "ab".index(path.parent.name)) for path in sorted((tmp_path / "files").rglob("*.png"))]
    rows += [rows[0], (rows[1][0], 1)]
    contents = [path.read_bytes() for path, _ in rows] + [b"no image"]
    folder = tmp_path / "table"
    folder.mkdir()
    for name, part in (("train", range(13)), ("test", range(13, 15))):
        table = {
            "image": [{"bytes": contents[i], "path": None} for i in part],
            "label": [[*(label for _, label in rows), 0][i] for i in part],
        }
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
    found = look(folder)
    assert found.train_counts.tolist() == [9, 4]
    assert len(found.copies) == len(found.leaks) == len(found.contradictions) == 1
    assert found.unusable == (
        f"image 1 of {folder} (test) cannot be read (it is not an image in a known format); replace or remove it",
    )


def test_digits():
    found = look("digits", Preprocessing(image_size=8, resize=8, mean=(0.0,), std=(1.0,)))
    assert (found.num_images, dict(found.kinds), found.sizes[0]) == (1797, {"gray": 1797}, (8, 8))
    assert not found.unusable
