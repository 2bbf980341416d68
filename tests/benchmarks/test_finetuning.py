"""The comparison of fine-tuning with fastai and timm: its pictures, its jobs, how it goes on, what is said of it."""

import io
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import finetuning
import finetuning_contestants
import finetuning_variants
from finetuning import Arguments, Job, Results, jobs_of
from finetuning_contestants import Task, epochs_for
from finetuning_data import cifar_folder, crops_folder, pretraining_data
from finetuning_variants import cells_set, photos_set, summary
from pages import finetuning as page

JOB = Job(measure="cifar", contestant="timm", network="cifar_se_resnet20", group=20, seed=1, budget=15.0)


def encoded(picture, kind="png"):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


@pytest.fixture
def cifar(tmp_path):
    """Return a folder like CIFAR-10's: 12 images a class for training and 2 for testing, of a brightness each."""
    for split, of_class in (("train", 12), ("test", 2)):
        labels = np.arange(10 * of_class) % 10
        images = [
            {"bytes": encoded(np.full((4, 4, 3), row, dtype=np.uint8)), "path": None} for row in range(len(labels))
        ]
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{split}.parquet")
    return tmp_path


def files(folder, split):
    return {path.relative_to(folder / split).as_posix(): path.read_bytes() for path in (folder / split).glob("*/*")}


def test_the_networks_are_pretrained_on_classes_that_they_are_not_fine_tuned_to(cifar, tmp_path):
    first = pretraining_data(cifar, tmp_path / "first")
    assert set(pq.read_table(first / "train.parquet")["label"].to_pylist()) == {0, 1, 2, 3, 4}
    other = cifar_folder(cifar, tmp_path / "other", images=10, seed=0)
    assert sorted(path.name for path in (other / "train").iterdir()) == ["dog", "frog", "horse", "ship", "truck"]


def test_seeds_choose_the_images_and_which_are_held_out(cifar, tmp_path):
    one, again, two = (
        cifar_folder(cifar, tmp_path / name, images=10, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for split in ("train", "val", "test"):
        assert files(one, split) == files(again, split)
    assert files(one, "train") != files(two, "train")
    assert files(one, "test") == files(two, "test")
    assert len(files(one, "test")) == 10
    train, val = files(one, "train"), files(one, "val")
    assert not train.keys() & val.keys()
    for split, of_class in ((train, 8), (val, 2)):
        assert set(Counter(name.split("/")[0] for name in split).values()) == {of_class}


def test_a_folder_that_was_cut_short_is_written_again(cifar, tmp_path):
    whole = files(cifar_folder(cifar, tmp_path / "a", images=10, seed=0), "train")
    (tmp_path / "b" / "train" / "dog").mkdir(parents=True)
    (tmp_path / "b" / "train" / "dog" / "half.jpg").write_bytes(b"")
    assert files(cifar_folder(cifar, tmp_path / "b", images=10, seed=0), "train") == whole


@pytest.fixture
def photos(tmp_path):
    """Return a folder with a photo of each kind: three large boxes of a class, a small one, a crowd, a rare class."""
    kinds = [{"id": 5, "name": "cat"}, {"id": 7, "name": "rare"}]
    (tmp_path / "images").mkdir()
    for split, names in (("train", 1), ("val", 2)):
        large = [{"category_id": 5, "bbox": [10.4 * i, 0, 50, 60 + i], "iscrowd": 0} for i in range(3)]
        others = [
            {"category_id": 5, "bbox": [0, 0, 47.9, 90], "iscrowd": 0},
            {"category_id": 5, "bbox": [0, 0, 90, 90], "iscrowd": 1},
            {"category_id": 7, "bbox": [0, 0, 90, 90], "iscrowd": 0},
        ]
        boxes = [{**box, "image_id": names, "id": number} for number, box in enumerate([*large, *others])]
        told = {"categories": kinds, "images": [{"id": names, "file_name": f"{names}.jpg"}], "annotations": boxes}
        (tmp_path / f"{split}.json").write_text(json.dumps(told))
        pixels = np.random.default_rng(names).integers(0, 256, (100, 100, 3), dtype=np.uint8)
        (tmp_path / "images" / f"{names}.jpg").write_bytes(encoded(pixels, "jpeg"))
    return tmp_path


def test_crops_are_the_large_boxes_of_classes_that_both_kinds_of_photos_have(photos, tmp_path):
    folder = crops_folder(photos, tmp_path / "crops", seed=0)
    assert [len(files(folder, split)) for split in ("train", "val", "test")] == [2, 1, 3]
    with Image.open(folder / "test" / "cat" / "1.png") as crop, Image.open(photos / "images" / "2.jpg") as photo:
        assert crop.size == (50, 61)
        assert crop.tobytes() == photo.crop((10, 0, 60, 61)).tobytes()


def test_jobs_have_every_contestant_with_every_seed_and_size_once():
    jobs = jobs_of("cifar", Arguments(train_py=finetuning.HERE))
    assert len(jobs) == len(set(jobs)) == 7 * 3 * 3
    assert {job.contestant for job in jobs} <= finetuning_contestants.CONTESTANTS.keys()
    assert {(job.group, job.budget) for job in jobs} == set(finetuning.SECONDS.items())
    photos = jobs_of("photos", Arguments())
    assert {job.contestant for job in photos} == {"senet finetune", "fastai"}
    times = Counter((job.budget, job.cores) for job in photos)
    assert times == {(seconds, cores): 2 * seeds for _, seconds, cores, seeds in finetuning.PHOTO_TIMES}
    smoke = jobs_of("cifar", Arguments(train_py=finetuning.HERE, smoke=2.0))
    assert {(job.group, job.seed, job.budget) for job in smoke} == {(20, 0, 2.0)}


def test_a_measurement_goes_on_where_it_was_and_repeats_what_failed(tmp_path, monkeypatch):
    ran = []

    def run_job(job, arguments, cores):
        assert len(cores) == job.cores
        ran.append(job.contestant)
        told = {"failed": "no disk"} if job.contestant == "fastai" and len(ran) < 3 else {"top1": 50.0}
        return vars(job) | told

    monkeypatch.setattr(finetuning, "run_job", run_job)
    monkeypatch.setattr(finetuning, "start_of", lambda job, arguments: None)
    jobs = [JOB, Job(**vars(JOB) | {"contestant": "fastai"})]
    for times in (2, 3, 3):
        results = Results(tmp_path / "results.json")
        finetuning.measure(jobs, Arguments(cores=1), results)
        assert len(ran) == times
    rows = json.loads((tmp_path / "results.json").read_text())["cifar"]
    assert [(row["contestant"], row["top1"]) for row in rows] == [("timm", 50.0), ("fastai", 50.0)]
    assert results.has(JOB)
    assert not results.has(Job(**vars(JOB) | {"budget": 16.0}))


def test_epochs_fill_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning_contestants, "time_epoch", lambda task: (2.0, 1.0))
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
    task = Task(contestant="fastai", folder=tmp_path, start=tmp_path, output=tmp_path / "runs" / "a", seconds=20.0)
    assert epochs_for(task) == 10  # (20 - 1) / 2
    monkeypatch.setattr(finetuning_contestants, "time_epoch", None)
    assert epochs_for(task) == 10, "measured once"


def test_smoke_tests_do_not_overwrite_results():
    with pytest.raises(SystemExit, match="another file"):
        finetuning.main(Arguments(all=True, smoke=1.0))
    with pytest.raises(SystemExit, match="--all, or --parts"):
        finetuning.main(Arguments(parts=("photo",)))


def rows_of(measure, **found):
    """Return rows of two seeds for each contestant."""
    return [
        {
            **vars(JOB),
            "measure": measure,
            "contestant": name.replace("_", " "),
            "seed": seed,
            **dict.fromkeys(METRICS, x),
        }
        for name, values in found.items()
        for seed, x in enumerate(values)
    ]


METRICS = ("top1", "balanced_accuracy", "macro_f1")


def test_the_page_says_how_far_ahead_or_behind(monkeypatch):
    result = {
        "machine": {"accelerator": None, "processor": "P", "threads": 1},
        "versions": {"torch": "2"},
        "date": "2026-01-01",
        "cifar": rows_of("cifar", senet_finetune=(60.0, 62.0), fastai=(50.0, 60.0), timm=(64.0, 64.0)),
        "photos": rows_of("photos", senet_finetune=(30.0, 36.0), fastai=(20.0, 24.0)),
        "epoch": [
            {"network": "n", "image_size": 32, "images_per_s": {"senet finetune": [900.0, 1000.0, 800.0], "timm": []}}
        ],
    }
    result["cifar"].append({**vars(JOB), "contestant": "timm, advised", "failed": "why"})
    monkeypatch.setattr(page, "read", lambda name: result if name == "finetuning" else None)
    text = page.finetuning_tables()
    assert "| `senet finetune` | 61.0 ± 1.4 |" in text
    assert "| timm, `train.py`, advised | failed |" in text
    assert "-3.0 with 20 images a class" in text
    assert "as a multiple of that of the best other: 1.50 in 15 s on 1 core." in text
    assert "| senet finetune | 900 |" in text
    assert "| timm | failed |" in text
    monkeypatch.setattr(page, "read", lambda name: None)
    assert "Not measured yet" in page.finetuning_tables()


# ---- what the defaults rest on ---------------------------------------------------------------------------------------


def with_boxes(folder, of_photo):
    """Write train.json and as many photos as there are lists of classes, each with a box of 50 pixels."""
    names = sorted({name for found in of_photo for name in found})
    boxes = [(photo, name) for photo, found in enumerate(of_photo) for name in found]
    told = {
        "categories": [{"id": names.index(name), "name": name} for name in names],
        "images": [{"id": photo, "file_name": f"{photo}.jpg"} for photo in range(len(of_photo))],
        "annotations": [
            {"id": box, "image_id": photo, "category_id": names.index(name), "bbox": [photo, 0, 50, 50], "iscrowd": 0}
            for box, (photo, name) in enumerate(boxes)
        ],
    }
    (folder / "images").mkdir()
    (folder / "train.json").write_text(json.dumps(told))
    for photo in range(len(of_photo)):
        (folder / "images" / f"{photo}.jpg").write_bytes(encoded(np.full((60, 90, 3), photo, dtype=np.uint8), "jpeg"))
    return [photo for photo, _ in boxes]


def test_crops_of_a_photo_train_or_score_and_each_class_does_both(tmp_path):
    photo_of = with_boxes(tmp_path, [["cat", "dog", "cat"], ["cat", "dog"], ["cat", "dog"], ["cat", "dog"], ["rare"]])
    scored_of_all = []
    for fold in range(3):
        train, scored = photos_set(finetuning_variants.Arguments(photos=tmp_path), fold)
        for some in (train, scored):
            assert {name for name, *_ in some} == {"cat", "dog"}
        photos_of = [{photo_of[int(file.partition(".")[0])] for _, file, _ in some} for some in (train, scored)]
        assert not photos_of[0] & photos_of[1]
        scored_of_all += [file for _, file, _ in scored]
    assert len(scored_of_all) == len(set(scored_of_all)) == 9


def test_cells_are_as_many_as_wanted_and_score_on_other_photos(tmp_path):
    photo_of = with_boxes(tmp_path, [["a", "a", "b"]] * 6)
    train, scored = cells_set(finetuning_variants.Arguments(cells=tmp_path), {"a": 4, "b": 2}, seed=0)
    assert Counter(name for name, *_ in train) == {"a": 4, "b": 2}
    assert Counter(name for name, *_ in scored) == {"a": 6, "b": 3}
    photos_of = [{photo_of[int(file.partition(".")[0])] for _, file, _ in some} for some in (train, scored)]
    assert not photos_of[0] & photos_of[1]


def test_cifar_scores_on_training_images_that_do_not_train(cifar, monkeypatch):
    monkeypatch.setattr(finetuning_variants, "SCORED", 3)
    arguments = finetuning_variants.Arguments(cifar=cifar)
    train, scored = finetuning_variants.cifar_set(arguments, 5, seed=0)
    assert (len(train), len(scored)) == (25, 15)
    files_of = [{file for _, file, _ in some} for some in (train, scored)]
    assert not files_of[0] & files_of[1]
    all_of = pq.read_table(cifar / "train.parquet")["image"].combine_chunks().field("bytes").to_pylist()
    assert {data for *_, data in train + scored} <= set(all_of)


def test_leaves_score_on_drawings_for_training_alone():
    train, scored = finetuning_variants.leaves_set(seed=0)
    together = {(name, file) for name, file, _ in train + scored}
    assert len(together) == len(train) + len(scored)
    assert together == {(path.parent.name, path.name) for path in (finetuning_variants.PICTURES / "train").glob("*/*")}


def test_each_variant_of_a_question_exists_and_has_the_base_beside_it():
    jobs = finetuning_variants.jobs_of(finetuning_variants.Arguments())
    assert {job.variant for job in jobs} == finetuning_variants.VARIANTS.keys()
    usual = {(job.data, job.seed) for job in jobs if job.variant == "base"}
    assert {(job.data, job.seed) for job in jobs} == usual


def test_a_variant_is_compared_with_the_base_of_the_same_seeds():
    def row(variant, seed, last):
        return {"data": "cells", "variant": variant, "seed": seed, "last": last, "best": [[1, 2], [1, 1]]}

    rows = [
        row("base", 0, [[5, 10], [5, 10]]),
        row("base", 1, [[7, 10], [5, 10]]),
        row("off", 1, [[9, 10], [0, 10]]),
        row("off", 2, [[9, 10], [9, 10]]),
        row("weights", 0, [[6, 10], [6, 10]]),
        row("weights", 1, [[7, 10], [7, 10]]),
    ]
    usual, off, weights = summary(rows)
    assert (usual["last"], usual["difference"], usual["best"]) == (55.0, 0.0, 75.0)
    assert (off["seeds"], off["last"], off["difference"]) == (1, 45.0, -15.0)
    assert "error" not in off
    assert (weights["seeds"], weights["difference"], weights["error"]) == (2, 10.0, 0.0)


def test_the_page_says_what_each_default_is_worth(monkeypatch):
    result = {
        "machine": {"accelerator": None, "processor": "P", "threads": 1},
        "versions": {"torch": "2"},
        "date": "2026-01-01",
        "summary": [
            {"data": "cells", "variant": "off", "last": 50.0, "best": 40.0, "difference": -5.04, "error": 1.26},
            {"data": "cells", "variant": "base", "last": 55.0, "best": 50.0, "difference": 0.0, "error": 0.0},
            {"data": "photos", "variant": "off", "last": 20.0, "best": 18.0, "difference": 1.0},
        ],
    }
    monkeypatch.setattr(page, "read", lambda name: result if name == "finetuning_variants" else None)
    text = page.finetuning_tables()
    assert "| base | 55.0 |  |" in text
    assert "| off | -5.0 ± 1.3 | +1.0 |" in text
    assert "| best epoch | 45.0 | 18.0 |" in text
