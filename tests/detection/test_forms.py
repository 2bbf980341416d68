"""What other tools write in the forms of YOLO and Pascal VOC is read as it is meant, or named."""

import pytest

from boxed_pictures import write_voc, write_yolo
from senet.detection.data_config import DetectionDataConfig
from senet.detection.datasets import open_detection_split, open_detection_splits
from senet.errors import SenetError


def config(root):
    return DetectionDataConfig(dataset=str(root), num_workers=0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.1", "line 1: expected a class and 4 numbers"),
        ("5 0.5 0.5 0.1 0.1", "line 1: class 5 is not among the 2 names"),
        ("0 48 32 10 10", "line 1: expected shares of width and height from 0 to 1, not pixels"),
        ("disk 0.5 0.5 0.1 0.1", "line 1: expected numbers"),
    ],
)
def test_lines_of_yolo(line, said, tmp_path):
    root = write_yolo(tmp_path)
    (root / "labels" / "train" / "1.txt").write_text(line)
    with pytest.raises(SenetError, match=f"1.txt, {said}"):
        open_detection_splits(config(root))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("{0: disk, b: square}", "numbers its names 0, 'b'; expected 0, 1"),
        ("[disk, disk]", "several classes named 'disk'"),
        ("[yes, no]", "has True as the name of class 0; expected a name, in quotation marks"),
        ("[disk, square]\nnc: 3", "has 2 names, but nc is 3"),
    ],
)
def test_names_of_yolo(names, said, tmp_path):
    root = write_yolo(tmp_path)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    with pytest.raises(SenetError, match=said):
        open_detection_splits(config(root))


def test_yolo_as_other_tools_write_it(tmp_path):
    """Images in folders below that of a split, a byte order mark, and points after the boxes, as in data for poses."""
    root = write_yolo(tmp_path)
    whole = open_detection_split(config(root), "train")
    for kind, ending in (("images", "png"), ("labels", "txt")):
        (root / kind / "train" / "later").mkdir()
        (root / kind / "train" / f"2.{ending}").rename(root / kind / "train" / "later" / f"2.{ending}")
    (root / "data.yaml").write_text((root / "data.yaml").read_text() + "kpt_shape: [2, 2]\n")
    (root / "labels" / "train" / "1.txt").write_bytes(b"\xef\xbb\xbf1 0.5 0.5 0.25 0.25 0 0 1 1\n")
    split = open_detection_split(config(root), "train")
    assert len(split) == len(whole)
    assert split.records[0].boxes.tolist() == [[36, 24, 60, 40]]
    assert split.records[-1].boxes.tolist() == whole.records[1].boxes.tolist()
    (root / "labels" / "train" / "1.txt").write_bytes(b"\xe9")
    with pytest.raises(SenetError, match=r"1.txt cannot be read as text"):
        open_detection_splits(config(root))


def test_voc_as_other_tools_write_it(tmp_path):
    """Names with spaces, an old name in an xml, `difficult` in words, images without xml."""
    root = write_voc(tmp_path)
    for folder, ending in (("Annotations", "xml"), ("JPEGImages", "png")):
        (root / folder / f"train_1.{ending}").rename(root / folder / f"my photo.{ending}")
    list_file = root / "ImageSets" / "Main" / "train.txt"
    list_file.write_bytes(b"\xef\xbb\xbf" + list_file.read_bytes().replace(b"train_1", b"my photo"))
    xml = root / "Annotations" / "my photo.xml"
    xml.write_text(xml.read_text().replace("train_1.png", "train_2.png"))
    xml = root / "Annotations" / "val_2.xml"
    for number, word in (("0", "Unspecified"), ("1", "False")):
        xml.write_text(xml.read_text().replace(f"<difficult>{number}<", f"<difficult>{word}<"))
    train, evaluation = open_detection_splits(config(root))
    assert train.records[0].file.endswith("my photo.png")
    assert [record.iscrowd.tolist() for record in evaluation.records] == [[False], [False, False]]
    flat = root / "flat"
    for split in ("train", "val"):
        (flat / split).mkdir(parents=True)
        for file in (*root.glob(f"*/{split}_*.xml"), *root.glob(f"*/{split}_*.png")):
            file.rename(flat / split / file.name)
    (flat / "train" / "train_2.xml").unlink()
    assert open_detection_split(config(flat), "train").notes == (f"{flat} (train): 1 image without an xml left out",)


def test_a_polygon_of_yolo_has_a_box_and_copies_count_once(tmp_path):
    root = write_yolo(tmp_path)
    (root / "labels" / "train" / "1.txt").write_text("1 0.25 0.5 0.5 0.25 0.5 0.75\n1 0.25 0.5 0.5 0.25 0.5 0.75\n")
    (root / "labels" / "train" / "2.txt").unlink()
    train = open_detection_split(config(root), "train")
    assert train.records[0].boxes.tolist() == [[24, 16, 48, 48]]
    assert len(train.records[1].boxes) == 0
    assert "1 box that stand twice left out" in train.notes[0].replace("boxes", "box")
