"""Training of detectors: the same loop as for networks that classify, by iterations or epochs, resumed bit for bit."""

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

import senet
from boxed_pictures import NAMES, write_coco
from senet.cli.training import TrainCommand
from senet.data.division import Division
from senet.detection.config import DetectionConfig, DetectionSchedule, DetectionSelection
from senet.detection.data_config import DetectionDataConfig
from senet.detection.detector_config import DetectorConfig
from senet.detection.detectors import build_detector
from senet.detection.evaluation import evaluate_detector
from senet.detection.loading import load_detection_data
from senet.detection.task import Detection
from senet.detection.warm_start import from_detector, reordered
from senet.errors import NotFiniteError, SenetError
from senet.factory import from_pretrained
from senet.nn.block import SEOptions
from senet.recipes import get_recipe
from senet.training import trainer
from senet.training.interrupt import TrainingInterrupted
from senet.training.length import of_iterations
from senet.training.loop import resume, train
from senet.training.run import RunFolder
from senet.training.sections import ComputeConfig, OptimizerConfig
from senet.training.stored import read_config
from stopping import stop_at

DETECTOR = DetectorConfig(
    trunk="cifar_se_resnet20",
    min_size=(64,),
    max_size=96,
    frozen_stages=0,
    norm="train",
    pyramid_channels=16,
    box_features=32,
    options={"rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 20, "box_detections_per_img": 10},
)


LAYER = "backbone.body.layer2.0.conv1"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return DetectionDataConfig(dataset=str(write_coco(tmp_path_factory.mktemp("boxes"), train=6, val=3)), num_workers=0)


def configured(data, **settings):
    values = {
        "model": DETECTOR,
        "data": data,
        "optimizer": OptimizerConfig(lr=0.01),
        "schedule": DetectionSchedule(name="step", milestones=(4,), warmup_iterations=2, warmup_start=0.5),
        "iterations": 5,
        "batch_size": 2,
        "compute": ComputeConfig(cpu=True, compile="off"),
        "trackers": (),
    }
    return DetectionConfig(**{**values, **settings})


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return train(configured(data), tmp_path_factory.mktemp("runs") / "whole")


def weights(run):
    return torch.load(run / "last" / "training_state.pt", weights_only=True)["model"]


def test_a_run_of_iterations_ends_after_them_and_its_rate_follows_them(whole):
    rows = RunFolder(whole).metrics()
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 5)]  # of 3 batches, the last epoch is cut
    assert [row["lr"] for row in rows] == pytest.approx([0.01, 0.001])
    assert {"ap", "ap50", "ap75", "ar100", "train_loss", "images_per_s"} <= set(rows[0])
    assert "loss" not in rows[0]


def test_an_image_too_thin_to_be_scaled_is_named_before_the_training(data, tmp_path):
    root = write_coco(tmp_path / "thin", train=3, val=2)
    Image.new("RGB", (1, 200)).save(root / "images" / "val_1.png")
    content = json.loads((root / "val.json").read_text())
    content["images"][0].update(width=1, height=200)
    content["annotations"][0].update(bbox=[0, 10, 1, 50])
    (root / "val.json").write_text(json.dumps(content))
    with pytest.raises(SenetError, match=r"val_1.png is 1 x 200 pixels, and scaled to at most 96 it is less than"):
        train(configured(replace(data, dataset=str(root))), tmp_path / "run")


def test_the_run_folder_says_what_it_does_and_describes_its_detector(whole, data):
    values = json.loads((whole / "config.json").read_text())
    assert values["task"] == "detection"
    config = RunFolder(whole).read_config()
    assert isinstance(config, DetectionConfig)
    assert config.model.num_classes == len(NAMES)
    assert read_config(values) == config
    assert json.loads((whole / "data.json").read_text())["class_names"] == list(NAMES)


def test_a_run_goes_on_only_with_the_boxes_that_it_started_with(data, tmp_path, monkeypatch):
    folder = tmp_path / "boxes"
    shutil.copytree(data.dataset, folder)
    with monkeypatch.context() as patched:
        stop_at(patched, 0, 1)
        with pytest.raises(TrainingInterrupted):
            train(configured(replace(data, dataset=str(folder))), tmp_path / "run")
    path = next(folder.rglob("*train*.json"))
    before = path.read_text()
    edited = json.loads(before)
    edited["annotations"][0]["bbox"][2] -= 1
    path.write_text(json.dumps(edited))
    with pytest.raises(SenetError, match=r"data of .*run have changed: train_boxes was"):
        resume(tmp_path / "run")
    path.write_text(before)
    resume(tmp_path / "run")


def test_the_figures_of_a_run_are_those_of_what_it_kept(whole, data):
    model = from_pretrained(whole / "last")
    assert model.class_names == NAMES
    loaders = load_detection_data(data, batch_size=3, device=torch.device("cpu"))
    found = evaluate_detector(model, loaders.evaluation.batches(0), loaders.eval_split)
    last = RunFolder(whole).metrics()[-1]
    assert (found.ap, found.ap50, found.ar100) == pytest.approx((last["ap"], last["ap50"], last["ar100"]), abs=1e-3)


TIMES = ("time_s", "images_per_s", "data_wait_s", "evaluation_s")


@pytest.mark.parametrize("moment", [(0, 1), (1, 0)])
def test_a_stopped_run_goes_on_bit_for_bit(moment, whole, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop_at(patched, *moment)
        with pytest.raises(TrainingInterrupted):
            train(configured(data), tmp_path / "run")
    resume(tmp_path / "run")
    own, expected = weights(tmp_path / "run"), weights(whole)
    assert all(torch.equal(own[key], value) for key, value in expected.items())
    figures = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in RunFolder(run).metrics()]
        for run in (tmp_path / "run", whole)
    ]
    assert figures[0] == figures[1]


def test_one_process_goes_on_with_a_run_of_two_and_two_not_with_one(data, tmp_path, monkeypatch, caplog):
    """A detector's batch of two shares of an image each has the steps of one of two images; a share is not divided."""
    monkeypatch.setattr(RunFolder, "num_processes", lambda run, now: 2)
    with caplog.at_level(logging.INFO):
        run = train(configured(data, batch_size=1), tmp_path / "run")
    assert "goes on with 1 process, which computes 2 of the run's 2 shares of a batch" in caplog.text
    assert [row["step"] for row in RunFolder(run).metrics()] == [3, 5]
    assert torch.load(run / "last/training_state.pt")["num_processes"] == 2
    task = Detection(configured(data))
    with pytest.raises(SenetError, match=r"has 1 share, too few for 2 processes: a detector's .* start at most 1"):
        task.open(RunFolder(tmp_path / "other"), None, Division(num_processes=2), is_new=True)


def test_a_run_that_goes_on_does_not_need_the_weights_of_its_trunk(data, tmp_path, monkeypatch, caplog):
    model = replace(DETECTOR, frozen_stages=1, norm="frozen")
    config = configured(data, model=model, weights="cifar10")
    with monkeypatch.context() as patched, caplog.at_level(logging.INFO, "senet.training"):
        stop_at(patched, 0, 0)
        with pytest.raises(TrainingInterrupted):
            train(config, tmp_path / "run")
    assert "the trunk from cifar10" in caplog.text
    before = weights(tmp_path / "run")
    monkeypatch.setattr("senet.detection.trunk_weights.create_model", lambda *_, weights=None, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config, tmp_path / "other")
    monkeypatch.undo()
    resume(tmp_path / "run")
    after = weights(tmp_path / "run")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert not any("running_" in key for key in changed)


def test_epochs_count_too_and_the_warm_up_stays_in_steps(data, tmp_path):
    schedule = DetectionSchedule(name="step", milestones=(1,), warmup_iterations=3, warmup_start=1 / 3)
    config = configured(data, iterations=None, epochs=2, schedule=schedule, checkpoint_every=1)
    rows = RunFolder(train(config, tmp_path / "run")).metrics()
    assert [row["lr"] for row in rows] == pytest.approx([0.01 * (1 / 3 + 2 / 3 * 2 / 3), 0.001])


def test_other_batches_scale_the_rate_and_the_iterations_and_say_so(data, tmp_path, caplog):
    config = configured(data, reference_batch=4, iterations=2, schedule=DetectionSchedule(name="cosine"))
    with caplog.at_level(logging.INFO, "senet.training"):
        run = train(config, tmp_path / "run")
    assert "a step has 2 images where reference_batch is 4: the learning rate is 0.005, not 0.01" in caplog.text
    stored = RunFolder(run).read_config()
    assert (stored.optimizer.lr, stored.iterations, stored.reference_batch) == (0.005, 4, None)
    assert RunFolder(run).metrics()[-1]["step"] == 4


def test_the_recipe_is_scaled_as_detectron_says():
    recipe = get_recipe("coco_faster_rcnn")
    assert recipe.scaled(8) == (recipe, "")
    scaled, _ = recipe.scaled(1)  # 2 images: Detectron's GETTING_STARTED has 0.0025 for one GPU, and 8 times the steps
    assert scaled.optimizer.lr == pytest.approx(0.0025)
    assert (scaled.iterations, scaled.schedule.milestones) == (1_440_000, (960_000, 1_280_000))
    once = get_recipe("coco_faster_rcnn_1x")
    assert (once.iterations, once.schedule.milestones) == (90_000, (60_000, 80_000))


@pytest.mark.parametrize(("iterations", "accumulate", "expected"), [(5, 1, (2, 2)), (6, 1, (2, 3)), (3, 2, (2, 2))])
def test_iterations_are_divided_into_epochs_of_three_batches(iterations, accumulate, expected):
    length = of_iterations(iterations, 3, accumulate)
    assert (length.epochs, length.last_batches) == expected
    assert [length.batches_of(epoch) for epoch in range(2)] == [3, expected[1]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 3}, "epochs is 3 and iterations is 5; a run has one of these lengths"),
        ({"iterations": None}, "epochs is None and iterations is None"),
        ({"iterations": 3}, "schedule.milestones has 4, which a run of 3 iterations does not reach"),
        ({"max_seconds": 60.0}, "max_seconds has no effect on a run whose length is in iterations"),
        ({"optimizer": OptimizerConfig(layer_decay=0.9)}, "optimizer.layer_decay has no effect on a detector"),
        ({"compute": ComputeConfig(compile="on")}, "compute.compile is on, but a detector is not compiled"),
        ({"weights_key": "ema"}, "weights_key has no effect without weights"),
    ],
)
def test_what_has_no_effect_is_refused(settings, said, data):
    with pytest.raises(SenetError, match=said):
        configured(data, **settings)


def test_schedules_and_metrics_that_need_a_loss_are_refused():
    with pytest.raises(SenetError, match=r"schedule.name is plateau, which follows the loss"):
        DetectionSchedule(name="plateau")
    with pytest.raises(SenetError, match=r"selection.metric is 'loss'"):
        DetectionSelection(metric="loss")
    with pytest.raises(SenetError, match=r"a warm-up has one length"):
        DetectionSchedule(warmup_epochs=1.0, warmup_iterations=10)


def test_a_trunk_at_random_is_not_frozen(data, tmp_path):
    with pytest.raises(SenetError, match=r"frozen_stages is 2, but cifar_se_resnet20 has no weights"):
        train(configured(data, model=replace(DETECTOR, frozen_stages=2)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_inserts_se_into_a_plain_trunk_that_stays_what_it_was():
    plain = ["coco_faster_rcnn", "--output", "runs/x", "--model.trunk", "cifar_resnet20"]
    assert TrainCommand.read(plain, "senet train").config.model.se is None
    options = ["--model.se.reduction", "8", "--model.frozen-stages", "0", "--model.norm", "train"]
    config = TrainCommand.read([*plain, *options], "senet train").config
    assert config.model.se == SEOptions(reduction=8)
    detector = build_detector(replace(config.model, num_classes=1))
    assert len(detector.config.surgery.inserted) == 9


def test_other_settings_are_refused_where_a_run_goes_on(whole):
    with pytest.raises(SenetError, match=r"data.root has no effect on this run of detection"):
        resume(whole, root="elsewhere")
    with pytest.raises(SenetError, match=r"epochs is 3 and iterations is 5"):
        resume(whole, epochs=3)


@pytest.mark.slow
def test_a_detector_learns(data, tmp_path):
    """The run that these tests cut short finds most objects after some epochs."""
    config = configured(data, iterations=None, epochs=40, schedule=DetectionSchedule(name="cosine"))
    rows = RunFolder(train(config, tmp_path / "run")).metrics()
    assert rows[-1]["train_loss"] < 0.3 * rows[0]["train_loss"]
    assert max(row["ap50"] for row in rows) > 60


def test_a_run_starts_from_a_whole_detector(whole, data, tmp_path, caplog):
    """For the same classes with their last layers, in the data's order; for others without."""
    turned = from_pretrained(whole)
    senet.save_pretrained(turned, tmp_path / "same")
    turned.class_names = NAMES[::-1]
    senet.save_pretrained(turned, tmp_path / "turned")
    turned.class_names = ("cat", "dog")
    senet.save_pretrained(turned, tmp_path / "other")
    with caplog.at_level(logging.INFO, "senet.training"):
        start = replace(configured(data).model, trunk="resnet50", norm="frozen")  # the trunk is that of the weights
        run = train(configured(data, model=start, weights=str(tmp_path / "turned")), tmp_path / "run")
    assert "is taken whole, its classes in the order of the data" in caplog.text
    config = RunFolder(run).read_config()
    assert (config.model.trunk, config.model.norm) == ("cifar_se_resnet20", "frozen")
    models = {
        name: from_detector(DETECTOR, from_pretrained(tmp_path / name), name, NAMES)
        for name in ("same", "turned", "other")
    }
    states = {name: model.state_dict() for name, model in models.items()}
    logits, boxes = "roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(states["turned"][logits], states["same"][logits][[0, 2, 1]])
    assert torch.equal(states["turned"][boxes], states["same"][boxes].unflatten(0, (3, 4))[[0, 2, 1]].flatten(0, 1))
    assert not torch.equal(states["other"][logits], states["same"][logits])
    body = {key: x for key, x in states["same"].items() if "box_predictor" not in key}
    assert all(torch.equal(states["other"][key], x) for key, x in body.items())
    with pytest.raises(SenetError, match=r"a faster_rcnn, but model\.name is retinanet"):
        from_detector(DetectorConfig(name="retinanet"), models["same"], "same", NAMES)


@pytest.mark.parametrize(("by_class", "expected"), [(True, [0, 1, 4, 5, 2, 3]), (False, [0, 2, 1, 3, 5, 4])])
def test_values_of_classes_are_reordered_behind_the_background(by_class, expected):
    assert reordered(torch.arange(6), [1, 0], by_class).tolist() == expected


def test_a_run_that_would_end_in_its_warm_up_is_refused(data, tmp_path):
    schedule = DetectionSchedule(name="cosine", warmup_iterations=6)
    for length in ({"iterations": 5}, {"iterations": None, "epochs": 2}):
        with pytest.raises(SenetError, match=r"the warm-up takes 6 steps, and the run has [56]; set schedule\.warmup"):
            train(configured(data, schedule=schedule, **length), tmp_path / "run")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_names_the_layer_in_which_it_overflows(precision, data, tmp_path, monkeypatch):
    gradient = trainer.Trainer.gradient

    def ruining(self, *args, **options):
        if self.position.step == 3:
            with torch.no_grad():
                self.parts.model.get_submodule(LAYER).weight.fill_(3e38)
        return gradient(self, *args, **options)

    config = configured(data, compute=ComputeConfig(cpu=True, compile="off", precision=precision))
    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "gradient", ruining)
        with pytest.raises(NotFiniteError) as caught:
            train(config, tmp_path / "run")
    report = json.loads((tmp_path / "run/not_finite.json").read_text())
    assert (report["fault"]["layer"], report["fault"]["where"]) == (LAYER, "forward")
    assert f"{LAYER} (Conv2d) gives values that are not finite" in str(caught.value)
    assert report["message"] == str(caught.value)
    state = RunFolder(tmp_path / "run").load_state(frozenset({"model", "position"}))
    assert state is None or all(t.isfinite().all() for t in state["model"].values() if t.is_floating_point())
