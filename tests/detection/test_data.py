"""Images with boxes: the same in every form and for pycocotools; what cannot be meant is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import CocoDetection

from boxed_pictures import NAMES, pictures, write_coco, write_voc, write_yolo
from senet.detection.data_config import DetectionDataConfig
from senet.detection.datasets import open_detection_split, open_detection_splits
from senet.detection.loading import GroupedOrder, load_detection_data, read_pixels
from senet.errors import SenetError

WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


def config(root, **settings):
    return DetectionDataConfig(dataset=str(root), num_workers=0, **settings)


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_same_boxes(form, tmp_path):
    train, evaluation = open_detection_splits(config(WRITERS[form](tmp_path, train=4, val=2)))
    assert train.class_names == evaluation.class_names == NAMES
    for seed, split in enumerate((train, evaluation)):
        for record, (picture, boxes, classes) in zip(split.records, pictures(seed, len(split)), strict=True):
            np.testing.assert_allclose(record.boxes, np.array(boxes), atol=1e-4)
            assert record.labels.tolist() == [kind + 1 for kind in classes]
            pixels = read_pixels(record)
            assert torch.equal(pixels, torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    assert [record.iscrowd.tolist() for record in train.records] == [[False] * len(r.labels) for r in train.records]
    if form == "voc":  # the second object of each picture is difficult
        assert [record.iscrowd.tolist() for record in evaluation.records] == [[False], [False, True]]


def test_pycocotools_and_torchvision_read_the_same(tmp_path, capsys):
    """Also boxes that stick out or have no area, and areas that are no float32."""
    root = write_coco(tmp_path)

    def spoil(content):
        first, second, third, *_ = content["annotations"]
        first["bbox"][0], second["bbox"][3], third["area"] = -7.3, 0, 1024.00001

    change(root, spoil, "val")
    split = open_detection_split(config(root), "eval", ("square", "disk"))
    theirs = COCO(str(root / "val.json"))
    ours = split.ground_truth()
    assert [image["id"] for image in ours["images"]] == theirs.getImgIds()
    assert {c["id"]: c["name"] for c in ours["categories"]} == {k: v["name"] for k, v in theirs.cats.items()}
    by_image = {number: theirs.imgToAnns[number] for number in theirs.getImgIds()}
    for number, expected in by_image.items():
        found = [each for each in ours["annotations"] if each["image_id"] == number]
        for name in ("category_id", "iscrowd", "area"):
            assert [each[name] for each in found] == [each[name] for each in expected]
        np.testing.assert_allclose([each["bbox"] for each in found], [each["bbox"] for each in expected], atol=1e-12)
    dataset = CocoDetection(str(root / "images"), str(root / "val.json"))
    for (picture, _), record in zip(dataset, split.records, strict=True):
        assert torch.equal(read_pixels(record), torch.from_numpy(np.array(picture)).permute(2, 0, 1))


def change(root, function, split="train"):
    """Change the json of a split."""
    content = json.loads((root / f"{split}.json").read_text())
    function(content)
    (root / f"{split}.json").write_text(json.dumps(content))


def in_first(part, **values):
    return lambda content: content[part][0].update(values)


def in_every_box(content, function):
    for each in content["annotations"]:
        each["bbox"] = function(*each["bbox"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (in_first("annotations", bbox=[5, 5, -3, 4]), "annotation 1 of .*train_1.png has a negative side"),
        (in_first("annotations", bbox=[500, 5, 3, 4]), "annotation 1 of .*train_1.png lies outside of its 96 x 64"),
        (in_first("annotations", bbox=[5, 5, 3]), r"annotation 1 has the bbox \[5, 5, 3\]; expected four numbers"),
        (in_first("annotations", bbox=[5, 5, float("nan"), 1]), "expected four numbers"),
        (in_first("annotations", category_id=4), "annotation 1 has category_id 4, which is not among its categories"),
        (in_first("annotations", image_id=99), "annotation 1 is of image 99, which is not among its images"),
        (lambda c: c["annotations"][0].pop("bbox"), "annotation 1 has no 'bbox'"),
        (in_first("images", file_name="gone.png"), "lists .*gone.png, which is not there"),
        (in_first("images", id=2), "has two entries of image 2"),
        (in_first("images", id="a"), "image has the id 'a'; expected an integer"),
        (in_first("images", width=0), "image 1 is 0 x 64 pixels"),
        (in_first("images", id=2**70), "image has the id 1180591620717411303424; expected an integer of at most 64"),
        (in_first("images", file_name=None), "image 1 has the file_name None; expected the name of a file"),
        (in_first("images", file_name="a" * 5000), "lists .*aaa, which is not there"),
        (in_first("images", width=float("inf")), "image 1 is inf x 64 pixels"),
        (in_first("annotations", image_id=[1]), r"annotation 1 is of image \[1\], which is not among its images"),
        (in_first("annotations", category_id={}), "annotation 1 has category_id {}, which is not among"),
        (in_first("annotations", bbox=[10**400, 5, 3, 4]), "annotation 1 has the bbox .*; expected four numbers"),
        (in_first("annotations", area="abc"), "annotation 1 has the area 'abc'; expected square pixels"),
        (in_first("annotations", area=float("nan")), "annotation 1 has the area nan"),
        (in_first("annotations", iscrowd="0"), "annotation 1 has iscrowd '0'; expected 0 or 1"),
        (lambda c: in_every_box(c, lambda x, y, w, h: [x, y, x + w, y + h]), "every bbox could be x1, y1, x2, y2"),
        (lambda c: in_every_box(c, lambda *box: [value / 100 for value in box]), "as if they were shares of width"),
        (in_first("categories", name="square"), "several categories named 'square'"),
        (lambda c: c.pop("categories"), "has no list 'categories'; expected COCO's form"),
        (lambda c: c.update(annotations=[]), "has no boxes to train on"),
    ],
)
def test_what_cannot_be_meant_is_named(spoil, said, tmp_path):
    change(write_coco(tmp_path), spoil)
    with pytest.raises(SenetError, match=said):
        load_detection_data(config(tmp_path), batch_size=2, device=torch.device("cpu"))


def test_json_as_tools_on_windows_write_it(tmp_path):
    """With a byte order mark, and with backslashes in paths."""
    root = write_coco(tmp_path)
    change(root, lambda c: [each.update(file_name=f"images\\{each['file_name']}") for each in c["images"]])
    (root / "train.json").write_bytes(b"\xef\xbb\xbf" + (root / "train.json").read_bytes())
    records = open_detection_split(config(root), "train").records
    assert records[0].file == str(root / "images" / "train_1.png")


def test_boxes_too_thin_for_float32_are_boxes_without_area(tmp_path):
    change(write_coco(tmp_path), in_first("annotations", bbox=[50, 20, 1e-6, 10]))
    split = open_detection_split(config(tmp_path), "train")
    assert len(split.records[0].boxes) == 0
    assert "1 box without area left out" in split.notes[0]


def test_a_class_with_kinds_of_its_own_may_have_no_boxes_in_the_evaluation(tmp_path):
    """It is not Roboflow's kind of all others; that one is left out, and may be called as a class is."""

    def as_kind(content):
        first, second = content["categories"]
        first["supercategory"], second["supercategory"] = "thing", first["name"]

    def without_disks(content):
        content["annotations"] = [each for each in content["annotations"] if each["category_id"] != 3]

    write_coco(tmp_path)
    for split in ("train", "val"):
        change(tmp_path, as_kind, split)
    change(tmp_path, without_disks, "val")
    train, evaluation = open_detection_splits(config(tmp_path))
    assert (
        (evaluation.class_names, evaluation.category_ids) == (train.class_names, train.category_ids) == (NAMES, (3, 7))
    )
    assert evaluation.notes == ()
    for split in ("train", "val"):
        change(tmp_path, lambda c: c["categories"].insert(0, {"id": 0, "name": "disk", "supercategory": "none"}), split)
        change(tmp_path, lambda c: c["categories"][1].update(supercategory="disk"), split)
    assert open_detection_splits(config(tmp_path))[0].category_ids == (3, 7)
    change(tmp_path, lambda c: c["categories"].pop(), "val")
    change(tmp_path, lambda c: c.update(annotations=[]), "val")
    with pytest.raises(SenetError, match=r"val.json lacks the category 'square' of the training images"):
        open_detection_splits(config(tmp_path))


def test_an_image_of_another_size_is_named(tmp_path):
    change(write_coco(tmp_path), in_first("images", width=97))
    data = load_detection_data(config(tmp_path), batch_size=8, device=torch.device("cpu"))
    with pytest.raises(SenetError, match=r"train_1.png is 96 x 64 pixels, but its boxes are of an image of 97 x 64"):
        list(data.train.batches(0))


def test_what_coco_itself_has_is_counted(tmp_path):
    """Boxes without area, crowds, images without boxes, boxes that stick out."""
    root = write_coco(tmp_path, train=6)

    def spoil(content):
        first, second, third, *_ = content["annotations"]
        first["bbox"][2] = 0
        second["iscrowd"] = 1
        third["bbox"] = [-10, 0, 30, 20]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 6]

    change(root, spoil)
    data = load_detection_data(config(root), batch_size=2, device=torch.device("cpu"))
    said = "\n".join(data.notes)
    for part in ("1 box without area left out", "1 box of crowds not trained on", "1 box cut at the border"):
        assert part in said
    # Image 1 had the box without area alone, and 6 lost all.
    assert "2 images without boxes left out of the training" in said
    assert [record.image_id for record in data.train_split.records] == [2, 3, 4, 5]
    assert data.train_split.records[0].boxes.tolist() == [[0, 0, 20, 20]]
    whole = open_detection_split(config(root), "train")
    assert len(whole) == 6
    assert whole.records[1].iscrowd.tolist() == [True, False]


def test_renumbered_categories_are_matched_by_name(tmp_path):
    write_coco(tmp_path, ids=(3, 7))
    change(tmp_path, lambda c: c["categories"].reverse() or c["categories"].sort(key=lambda x: -x["id"]), "val")
    other = write_coco(tmp_path / "other", ids=(9, 2))
    (other / "val.json").rename(tmp_path / "test.json")
    for image in (other / "images").glob("val*"):
        image.rename(tmp_path / "images" / image.name)
    split = open_detection_split(config(tmp_path, val="test.json"), "eval")
    assert (split.class_names, split.category_ids) == (NAMES, (9, 2))
    expected = [[kind + 1 for kind in classes] for _, _, classes in pictures(1, 4)]
    assert [record.labels.tolist() for record in split.records] == expected
    change(tmp_path, in_first("categories", name="circle"), "test")
    with pytest.raises(SenetError, match="the category 'circle', which is not among those of the training images"):
        open_detection_splits(config(tmp_path, val="test.json"))


LAYOUTS = {
    "of COCO": ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "train2017", "val2017"),
    "of Roboflow": ("train/_annotations.coco.json", "valid/_annotations.coco.json", "train", "valid"),
    "flat": ("train.json", "test.json", "images", "images"),
    "nested": ("annotations/train.json", "annotations/val.json", "images/train", "images/val"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_found(layout, tmp_path):
    write_coco(tmp_path / "made")
    names, root = LAYOUTS[layout], tmp_path / "data"
    for split, json_name, folder in zip(("train", "val"), names[:2], names[2:], strict=True):
        (root / json_name).parent.mkdir(parents=True, exist_ok=True)
        (root / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / f"{split}.json").rename(root / json_name)
        for image in (tmp_path / "made" / "images").glob(f"{split}_*"):
            image.rename(root / folder / image.name)
    train, evaluation = open_detection_splits(config(root))
    assert (len(train), len(evaluation)) == (8, 4)
    assert train.records[0].file.endswith("train_1.png")


def test_a_single_json_is_divided(tmp_path):
    root = write_coco(tmp_path, train=10)
    (root / "val.json").unlink()
    with pytest.raises(SenetError, match=r"has no json for evaluation \(found: train.json\); .* data.val_fraction"):
        open_detection_splits(config(root))
    train, evaluation = open_detection_splits(config(root, val_fraction=0.2))
    assert (len(train), len(evaluation)) == (8, 2)
    names = {record.file for record in train.records} | {record.file for record in evaluation.records}
    assert len(names) == 10
    assert evaluation.held_out is not None
    other = open_detection_splits(config(root, val_fraction=0.2, split_seed=1))[1]
    assert other.held_out != evaluation.held_out


def test_several_jsons_of_a_split_are_not_guessed(tmp_path):
    root = write_coco(tmp_path)
    (root / "train2014.json").write_text((root / "train.json").read_text())
    with pytest.raises(SenetError, match=r"for train: train.json, train2014.json; name one by data.train"):
        open_detection_splits(config(root))
    assert len(open_detection_split(config(root, train="train.json"), "train")) == 8


def test_nothing_to_find_is_said(tmp_path):
    with pytest.raises(SenetError, match="is not there; expected a folder in the form of COCO, VOC or YOLO"):
        open_detection_splits(config(tmp_path / "no"))
    (tmp_path / "cats").mkdir()
    with pytest.raises(SenetError, match=r"has no boxes \(found: cats\); expected a json"):
        open_detection_splits(config(tmp_path))


def test_a_turned_photo_has_the_boxes_of_the_picture_that_was_annotated(tmp_path):
    """The same file, stored on its side: its boxes say by their image's size which way it was seen."""
    root = write_coco(tmp_path)
    upright = Image.open(root / "images" / "train_1.png").convert("RGB")
    stored = upright.transpose(Image.Transpose.ROTATE_90)  # as orientation 6 undoes
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(root / "images" / "train_1.png", exif=exif)
    record = open_detection_split(config(root), "train").records[0]
    as_array = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    assert torch.equal(read_pixels(record), as_array)
    on_its_side = replace(record, width=record.height, height=record.width)
    assert torch.equal(read_pixels(on_its_side), torch.from_numpy(np.array(stored)).permute(2, 0, 1))


# ---- batches ---------------------------------------------------------------------------------------------------------


def shapes_of(order, epoch, groups):
    return [np.unique(groups[batch]).tolist() for batch in order.batches(epoch)]


def test_batches_are_of_one_shape_as_far_as_they_are_filled():
    groups = np.array([0, 1, 1] * 41)
    order = GroupedOrder(num_images=123, batch_size=4, shuffle=True, seed=3, groups=groups)
    for epoch in range(3):
        batches = list(order.batches(epoch))
        assert len(np.unique(np.concatenate(batches))) == order.num_used == 120
        shapes = shapes_of(order, epoch, groups)
        assert sum(len(shape) > 1 for shape in shapes) <= 1
        assert [0] in shapes[:15]
        assert [1] in shapes[:15]
    one, other = (np.concatenate(list(order.batches(epoch))) for epoch in (0, 1))
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(np.concatenate(list(order.batches(1, 17))), other[17 * 4 :])


def test_two_processes_share_batches_of_one_shape():
    groups = np.array([0, 1] * 60)
    orders = [
        GroupedOrder(num_images=120, batch_size=2, shuffle=True, rank=r, num_processes=2, groups=groups) for r in (0, 1)
    ]
    for first, second in zip(orders[0].batches(0), orders[1].batches(0), strict=True):
        assert not set(first) & set(second)
        assert len(np.unique(groups[np.concatenate([first, second])])) == 1


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_batch_is_a_function_of_seed_and_epoch_whatever_came_before(in_memory, tmp_path):
    settings = config(write_coco(tmp_path), in_memory=in_memory)
    settings = replace(settings, augmentation=replace(settings.augmentation, photometric=True, scale_jitter=(0.5, 2.0)))

    def batches(epoch, start=0):
        data = load_detection_data(settings, batch_size=2, device=torch.device("cpu"), seed=5)
        torch.rand(3)
        return list(data.train.batches(epoch, start))

    state = torch.get_rng_state()
    whole = batches(1)
    torch.set_rng_state(state)
    torch.rand(3)
    again = batches(1, 2)
    for (images, targets), (others, expected) in zip(again, whole[2:], strict=True):
        assert all(map(torch.equal, images, others))
        for target, other in zip(targets, expected, strict=True):
            assert all(torch.equal(target[name], other[name]) for name in other)
    assert not torch.equal(batches(0)[0][0][0], whole[0][0][0])
    images, targets = whole[0]
    assert images[0].dtype == torch.float32
    assert 0 <= images[0].min() <= images[0].max() <= 1
    assert {name: str(value.dtype) for name, value in targets[0].items()} == {
        "boxes": "torch.float32",
        "labels": "torch.int64",
        "image_id": "torch.int64",
        "area": "torch.float32",
        "iscrowd": "torch.int64",
    }


@pytest.mark.slow
def test_workers_load_the_same(tmp_path):
    alone, many = (
        load_detection_data(
            replace(config(write_coco(tmp_path)), num_workers=workers), batch_size=3, device=torch.device("cpu")
        )
        for workers in (0, 2)
    )
    for epoch in (0, 1):
        for (images, targets), (others, expected) in zip(
            alone.train.batches(epoch), many.train.batches(epoch), strict=True
        ):
            assert all(map(torch.equal, images, others))
            assert [t["image_id"] for t in targets] == [t["image_id"] for t in expected]
    (tmp_path / "images" / "train_3.png").write_bytes(b"no picture")
    with pytest.raises(SenetError, match=r"train_3.png cannot be read"):
        list(many.train.batches(2))
