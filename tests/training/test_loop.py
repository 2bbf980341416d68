"""What a run does and writes, on a handful of digits."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from senet.data import loading
from senet.data.config import Augmentation
from senet.errors import MissingFileError, NotFiniteError, SenetError
from senet.evaluation.accuracy import score
from senet.factory import from_pretrained
from senet.files import read_jsonl
from senet.models.base import Network
from senet.recipes.digits import digits
from senet.training import classification, loop, objective, schedule, scoring
from senet.training.loop import resume, train
from senet.training.run import RunFolder
from senet.training.sections import ComputeConfig, OptimizerConfig, RegularizationConfig, ScheduleConfig
from senet.training.seeding import seed_everything

CPU = ComputeConfig(cpu=True)
RUN = replace(digits(), epochs=2, compute=CPU)  # three batches of 32 an epoch
PLAIN_SGD = OptimizerConfig(lr=0.5, momentum=0.0, weight_decay=0.0)
ONE_STEP = replace(
    RUN,
    epochs=1,
    batch_size=96,
    optimizer=PLAIN_SGD,
    schedule=ScheduleConfig(name="cosine"),
    data=replace(RUN.data, augmentation=Augmentation()),
)
open_all = cache(loading.open_split)


@pytest.fixture(autouse=True)
def _few_digits_on_one_thread(monkeypatch):
    sizes = {"train": 96, "eval": 60}
    monkeypatch.setattr(loading, "open_split", lambda data, split: replace(open_all(data, split), size=sizes[split]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class LinearNetwork(Network):
    """No BatchNorm, nothing random in the forward pass: what a step does can be worked out."""

    default_cfg = {}  # noqa: RUF012  # it has no convolution to tell timm of

    def __init__(self, config):
        super().__init__()
        self.config = replace(config, num_classes=10)
        self.add_head(64, 10, dropout=0.0)
        with torch.no_grad():
            self.fc.weight.normal_()

    def forward(self, x):
        return self.fc(x.flatten(1))


@pytest.fixture
def linear(monkeypatch):
    """Train a `LinearNetwork` whatever the configuration says; the list collects those that were built."""
    built = []

    def build(config, surgery):
        built.append(LinearNetwork(config))
        return built[-1]

    monkeypatch.setattr(classification, "build", build)
    monkeypatch.setattr("senet.weights.folder.check_readable", lambda *_: None)  # it is none that can be read back
    return built


def few_batches(config, batch_size=96):
    return loading.load_data(config.data, batch_size=batch_size, device=torch.device("cpu"), seed=config.seed)


def initial_weights(config):
    seed_everything(config.seed)
    return {key: tensor.clone() for key, tensor in classification.build(config.model, None).state_dict().items()}


def state_of(run):
    return torch.load(run / "last" / "training_state.pt", weights_only=True)


def rows_of(run):
    return read_jsonl(run / "metrics.jsonl")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def recorded(monkeypatch, method, record):
    """Call `record(trainer, result)` after each call of a method of Trainer; returns the list of its results."""
    original, results = getattr(loop.Trainer, method), []

    def call(trainer, *args, **options):
        result = original(trainer, *args, **options)
        results.append(record(trainer, result))
        return result

    monkeypatch.setattr(loop.Trainer, method, call)
    return results


def recorded_logits(monkeypatch, record):
    """Call `record(logits)` for all logits, in training and evaluation; returns the list of its results."""
    original, results = objective.logits_of, []

    def call(*args, **options):
        logits = original(*args, **options)
        results.append(record(logits))
        return logits

    for module in (objective, scoring):
        monkeypatch.setattr(module, "logits_of", call)
    return results


def assert_same_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    assert not [key for key, tensor in expected.items() if not torch.equal(actual[key], tensor)]


def assert_close_tensors(actual, expected, atol):
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(actual[key], tensor, atol=atol, rtol=0, msg=lambda said, key=key: f"{key}: {said}")


def test_a_run_folder_holds_what_is_documented(tmp_path: Path):
    run = train(RUN, tmp_path / "run")

    names = {str(path) for path in contents(run)}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    of_steps = {name for name in names if name.startswith("steps/events.out.tfevents.")}
    assert len(of_steps) == 1
    models = {
        f"{kind}/{name}"
        for kind in ("best", "last")
        for name in ("README.md", "config.json", "model.safetensors", "model.safetensors.sha256")
    }
    assert names - events - of_steps == models | {
        "config.json",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "steps.jsonl",
        *(f"{kind}/training_state.pt{end}" for kind in ("last", "previous") for end in ("", ".sha256")),
    }

    rows = rows_of(run)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6)]
    last_batch = [row["epoch"] - 1 / 3 for row in rows]
    factors = [schedule.lr_factor(RUN.schedule, epoch, RUN.epochs) for epoch in last_batch]
    assert [row["lr"] for row in rows] == pytest.approx([RUN.optimizer.lr * factor for factor in factors])
    for row in rows:
        assert row["top1"] <= row["top5"] <= 100
        assert row["images_per_s"] == pytest.approx(96 / row["time_s"])

    last = from_pretrained(run / "last")
    result = score(last, few_batches(RUN).evaluation.batches(0))
    assert result.num_images == 60
    assert (result.loss, result.top1, result.top5) == pytest.approx([rows[-1][k] for k in ("loss", "top1", "top5")])
    assert last.class_names == tuple("0123456789")
    assert last.preprocessing == RUN.data.preprocessing

    noted = {kind: json.loads((run / kind / "config.json").read_text())["metrics"] for kind in ("best", "last")}
    assert noted == {"last": rows[-1], "best": max(rows, key=lambda row: row["top1"])}
    assert json.loads((run / "config.json").read_text())["optimizer"]["lr"] == RUN.optimizer.lr
    assert json.loads((run / "environment.json").read_text())["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_same_run_twice_ends_with_the_same_bits_and_another_seed_does_not(tmp_path: Path):
    first, second = (state_of(train(RUN, tmp_path / name)) for name in ("first", "second"))
    other = state_of(train(replace(RUN, seed=1), tmp_path / "other"))
    assert_same_tensors(second["model"], first["model"])
    for key, momentum in first["optimizer"]["state"].items():
        assert_same_tensors(second["optimizer"]["state"][key], momentum)
    assert not torch.equal(other["model"]["fc.weight"], first["model"]["fc.weight"])


def test_losses_of_a_short_training_stay_what_they_were(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(loading, "open_split", open_all)
    rows = rows_of(train(replace(RUN, batch_size=128), tmp_path / "run"))
    golden = {"train_loss": [2.2587, 1.7760], "loss": [2.1536, 1.5350]}  # memory format and threads move them by 0.4 %
    for key, values in golden.items():
        assert [row[key] for row in rows] == pytest.approx(values, rel=0.02)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path: Path, linear, accumulate):
    """Six batches of 16; with 4, the second window is of 2 batches only."""
    config = replace(ONE_STEP, epochs=2, batch_size=16, compute=replace(CPU, accumulate=accumulate))
    model = LinearNetwork(config.model)
    model.load_state_dict(initial_weights(config))
    for epoch in range(2):
        ((images, labels),) = few_batches(config).train.batches(epoch)
        for first in range(0, 6, accumulate):
            window = slice(16 * first, min(96, 16 * (first + accumulate)))
            gradients = torch.autograd.grad(
                F.cross_entropy(model(images[window]), labels[window]), list(model.parameters())
            )
            lr = config.optimizer.lr * schedule.lr_factor(config.schedule, epoch + first / 6, 2)
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= lr * gradient

    run = train(config, tmp_path / "run")
    assert_close_tensors(state_of(run)["model"], model.state_dict(), atol=1e-5)
    assert rows_of(run)[-1]["step"] == 2 * math.ceil(6 / accumulate)


def test_the_running_average_is_what_is_evaluated_and_kept(tmp_path: Path, monkeypatch):
    config = replace(RUN, regularization=RegularizationConfig(ema_decay=0.75))
    average = initial_weights(replace(config, model=replace(config.model, num_classes=10)))
    steps = recorded(
        monkeypatch, "backward", lambda trainer, _: {k: v.clone() for k, v in trainer.parts.model.state_dict().items()}
    )
    run = train(config, tmp_path / "run")
    for step in steps:
        average = {
            key: 0.75 * tensor + 0.25 * step[key] if tensor.is_floating_point() else step[key]
            for key, tensor in average.items()
        }
    kept = load_file(run / "last" / "model.safetensors")
    assert_close_tensors(kept, average, atol=1e-5)
    assert_same_tensors(state_of(run)["ema"], kept)
    assert_same_tensors(state_of(run)["model"], steps[-1])
    assert (kept["fc.weight"] - steps[-1]["fc.weight"]).abs().max() > 1e-3

    result = score(from_pretrained(run / "last"), few_batches(config).evaluation.batches(0))
    assert rows_of(run)[-1]["loss"] == pytest.approx(result.loss)


@pytest.mark.parametrize("frozen_epochs", [0, 1])
def test_frozen_batchnorm_keeps_its_statistics_and_still_learns(tmp_path: Path, monkeypatch, frozen_epochs):
    ends = recorded(
        monkeypatch,
        "evaluate_epoch",
        lambda trainer, _: {k: v.clone() for k, v in trainer.parts.model.state_dict().items()},
    )
    train(replace(RUN, regularization=RegularizationConfig(freeze_bn_epochs=frozen_epochs)), tmp_path / "run")
    same = {key for key in ends[0] if torch.equal(ends[0][key], ends[1][key])}
    statistics = {key for key in ends[0] if "running" in key or "tracked" in key}
    assert len(statistics) == 3 * 19
    assert same == (statistics if frozen_epochs else set())


def test_label_smoothing_spreads_the_target(tmp_path: Path, linear):
    config = replace(ONE_STEP, regularization=RegularizationConfig(label_smoothing=0.2))
    model = LinearNetwork(config.model)
    model.load_state_dict(initial_weights(config))
    ((images, labels),) = few_batches(config).train.batches(0)
    log_p = model(images).log_softmax(1)
    targets = torch.full_like(log_p, 0.02).scatter(1, labels[:, None], 0.82)
    (row,) = rows_of(train(config, tmp_path / "run"))
    assert row["train_loss"] == pytest.approx(-(targets * log_p).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_have_targets_mixed_alike(tmp_path: Path, linear, monkeypatch, kind):
    """Each image is mixed with its mirror in the batch: mixup takes a weight, CutMix a share of the pixels."""
    # The digits' corners are all alike.
    pixels = torch.randint(256, (96, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(loading, "decode", lambda split, _: (pixels[: len(split)], torch.arange(len(split)) % 7))
    config = replace(ONE_STEP, regularization=RegularizationConfig(label_smoothing=0.1, **{kind: 1.0}))
    seen = recorded_logits(monkeypatch, Tensor.detach)
    inputs = []
    monkeypatch.setattr(
        LinearNetwork, "forward", lambda self, x: (inputs.append(x.detach().clone()), self.fc(x.flatten(1)))[1]
    )
    ((images, labels),) = few_batches(config).train.batches(0)
    (row,) = rows_of(train(config, tmp_path / "run"))
    mixed, other = inputs[0], images.flip(0)
    if kind == "mixup":
        share = ((mixed - other) * (images - other)).sum() / (images - other).square().sum()
        torch.testing.assert_close(mixed, share * images + (1 - share) * other, atol=1e-5, rtol=0)
    else:
        ours = (mixed == images).all(0)
        share = ours.float().mean()
        torch.testing.assert_close(mixed, torch.where(ours, images, other), atol=0, rtol=0)
    assert 0.05 < share < 0.95
    targets = 0.01 + 0.9 * (share * F.one_hot(labels, 10) + (1 - share) * F.one_hot(labels.flip(0), 10))
    expected = -(targets * seen[0].log_softmax(1)).sum(1).mean()
    assert row["train_loss"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("clip_norm", [0.25, 1e6])
def test_clip_norm_limits_the_step(tmp_path: Path, linear, clip_norm):
    config = replace(ONE_STEP, optimizer=replace(PLAIN_SGD, clip_norm=clip_norm))
    before = initial_weights(config)
    after = state_of(train(config, tmp_path / "run"))["model"]
    free = state_of(train(replace(config, optimizer=PLAIN_SGD), tmp_path / "free"))["model"]
    moved, would_move = (torch.cat([(end[k] - before[k]).flatten() for k in before]) for end in (after, free))
    assert would_move.norm() > 2 * PLAIN_SGD.lr * 0.25
    expected = would_move * min(1.0, PLAIN_SGD.lr * clip_norm / would_move.norm())
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-3)


def test_bf16_computes_in_bf16_and_keeps_the_weights_in_float32(tmp_path: Path, monkeypatch):
    dtypes = set()
    original = nn.Conv2d.forward

    def forward(self, x):
        y = original(self, x)
        dtypes.add(y.dtype)
        return y

    exact = rows_of(train(ONE_STEP, tmp_path / "fp32"))[0]
    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    run = train(replace(ONE_STEP, compute=replace(CPU, precision="bf16")), tmp_path / "bf16")
    assert dtypes == {torch.bfloat16}
    assert {t.dtype for t in state_of(run)["model"].values()} == {torch.float32, torch.int64}
    row = rows_of(run)[0]
    assert row["train_loss"] == pytest.approx(exact["train_loss"], rel=0.02)
    assert row["train_loss"] != exact["train_loss"]


def test_a_batch_of_one_image_at_one_pixel_is_refused_in_one_sentence(tmp_path: Path):
    network = replace(RUN.model, name="se_resnet18")  # 8 pixels, halved five times
    for fused in ("off", "on"):
        config = replace(RUN, batch_size=1, model=network, compute=replace(CPU, fused=fused))
        with pytest.raises(
            SenetError, match="gives BatchNorm nothing to average; set batch_size to at least 2"
        ) as said:
            train(config, tmp_path / f"run{fused}")
        assert "\n" not in str(said.value)


def test_images_that_make_no_full_batch_are_all_trained_and_it_is_said(tmp_path: Path, capsys):
    run = train(replace(RUN, epochs=1, batch_size=64), tmp_path / "run")
    assert "96 images make batches of 48, not 64: 2 an epoch" in capsys.readouterr().err
    (row,) = rows_of(run)
    assert (row["step"], row["images_per_s"]) == (2, pytest.approx(96 / row["time_s"]))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_batches_that_differ_in_size_are_even_for_images_that_are_paired(tmp_path: Path, linear, monkeypatch, kind):
    sizes = recorded_logits(monkeypatch, lambda logits: (len(logits), logits.requires_grad))
    config = replace(ONE_STEP, batch_size=20, regularization=RegularizationConfig(**{kind: 1.0}))
    train(config, tmp_path / "run")
    assert [size for size, trained in sizes if trained] == [18, 20, 18, 20, 20]


def test_the_name_of_a_run_is_printed_as_it_is(tmp_path: Path, linear, capsys):
    train(ONE_STEP, tmp_path / "[red]run [!]")
    assert "[red]run [!]: epoch 1/1" in capsys.readouterr().err


def test_fp16_without_a_gpu_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(SenetError, match=r"compute\.precision is 'fp16'"):
        train(replace(RUN, compute=replace(CPU, precision="fp16")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("checkpoint_every", [None, 1])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_last_good_state(
    tmp_path: Path, linear, monkeypatch, batch, checkpoint_every
):
    """The step of the given batch of the second epoch ruins the weights; the loss tells in the next batch only."""
    backward = loop.Trainer.backward

    def ruinous(trainer, *args, **options):
        loss = backward(trainer, *args, **options)
        if trainer.position.step == 3 + batch - 1:
            trainer.parts.model.fc.weight.data *= math.inf
        return loss

    config = replace(RUN, epochs=3, optimizer=PLAIN_SGD, checkpoint_every=checkpoint_every)
    noticed = batch if checkpoint_every or batch == 3 else batch + 1
    monkeypatch.setattr(loop.Trainer, "backward", ruinous)
    with pytest.raises(NotFiniteError) as caught:
        train(config, tmp_path / "run")
    lr = PLAIN_SGD.lr * schedule.lr_factor(config.schedule, 1 + (noticed - 1) / 3, 3)
    assert f"at batch {noticed} of epoch 2 with learning rate {lr:.4g};" in str(caught.value)
    assert "\n" not in str(caught.value)
    run = tmp_path / "run"
    state = state_of(run)
    done = (state["position"]["epoch"], state["position"]["batch"])
    assert done == (1, 0 if checkpoint_every is None else batch - 1)
    for tensors in (state["model"], load_file(run / "last" / "model.safetensors")):
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert [row["epoch"] for row in rows_of(run)] == [1]

    monkeypatch.setattr(loop.Trainer, "backward", backward)
    resume(run)
    assert [row["epoch"] for row in rows_of(run)] == [1, 2, 3]


def test_what_exists_is_never_written_over(tmp_path: Path):
    run, foreign, file = tmp_path / "run", tmp_path / "foreign", tmp_path / "file"
    train(ONE_STEP, run)
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("three years of work")
    file.write_text("more of it")
    before = contents(tmp_path)
    for path, said in (
        (run, "holds a run already; go on with it by `senet train --resume"),
        (foreign, "is not a run folder"),
        (file, "is not a run folder"),
        (file / "run", "cannot be made"),
    ):
        with pytest.raises(SenetError, match=said) as caught:
            train(ONE_STEP, path)
        assert str(path) in str(caught.value)
    assert contents(tmp_path) == before


def test_resume_needs_a_run(tmp_path: Path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(MissingFileError, match="holds no run to resume"):
            resume(path)
    (tmp_path / "config.json").write_text('{"model": ')
    with pytest.raises(SenetError, match="is not a run's configuration"):
        resume(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(SenetError, match="is not a run's configuration"):
        resume(tmp_path)


def test_a_run_with_other_settings_names_the_field(tmp_path: Path):
    run = train(ONE_STEP, tmp_path / "run")
    before, se = contents(run), ONE_STEP.model.se
    flipped = replace(ONE_STEP.data, augmentation=Augmentation(flip=True))
    for name, config in {
        "optimizer.lr": replace(ONE_STEP, optimizer=replace(PLAIN_SGD, lr=0.4)),
        "data.augmentation.flip": replace(ONE_STEP, data=flipped),
        "model.se.reduction": replace(ONE_STEP, model=replace(ONE_STEP.model, se=replace(se, reduction=8))),
        "model.options.dropout": replace(ONE_STEP, model=replace(ONE_STEP.model, options={"dropout": 0.1})),
        "epochs": replace(ONE_STEP, epochs=2),
    }.items():
        with pytest.raises(SenetError, match=f"was started with another {name};"):
            RunFolder(run).check_same_config(config)
    assert contents(run) == before

    moved = replace(ONE_STEP, data=replace(ONE_STEP.data, root=Path("elsewhere"), num_workers=0), checkpoint_every=2)
    RunFolder(run).check_same_config(moved)  # where and how the data is read may change


def test_settings_that_do_not_fit_the_data_are_refused_before_anything_is_written(tmp_path: Path):
    for config, said in (
        (replace(RUN, model=replace(RUN.model, num_classes=7)), "model.num_classes is 7"),
        (replace(RUN, model=replace(RUN.model, name="cifar_se_resnet21")), "cifar_se_resnet21"),
        (replace(RUN, data=replace(RUN.data, dataset="digitz")), "data.dataset is 'digitz'"),
        (replace(RUN, data=replace(RUN.data, dataset="no/such")), "data.dataset is 'no/such'"),
    ):
        with pytest.raises(SenetError, match=said):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_checkpoint_every_saves_within_the_epoch_whatever_the_accumulation(tmp_path: Path, linear, monkeypatch):
    """Twelve batches, read in windows of two: the first save at or after each multiple of three."""
    saves = recorded(monkeypatch, "save", lambda trainer, _: trainer.position.batch)
    config = replace(ONE_STEP, batch_size=8, compute=replace(CPU, accumulate=2), checkpoint_every=3)
    train(config, tmp_path / "run")
    assert saves == [4, 6, 10, 0]
