"""A run that learns from a teacher: what the teacher is shown, what it adds to the loss, and what it teaches."""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checks import assert_one_sentence
from senet.data import loading
from senet.data.preprocessing import CIFAR, IMAGENET
from senet.errors import SenetError
from senet.factory import create_model, from_pretrained, load_model
from senet.files import read_jsonl
from senet.recipes.digits import digits
from senet.training import distillation, objective
from senet.training.distillation import Teacher
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import resume, train
from senet.training.sections import ComputeConfig, ObjectiveConfig, RegularizationConfig
from senet.training.trainer import Trainer
from senet.weights.folder import save_pretrained

RUN = replace(digits(), epochs=2, compute=ComputeConfig(cpu=True))
NAMES = tuple(map(str, range(10)))
open_all = cache(loading.open_split)


@pytest.fixture(autouse=True)
def _few_digits_on_one_thread(monkeypatch):
    sizes = {"train": 96, "eval": 200}
    monkeypatch.setattr(loading, "open_split", lambda data, split: replace(open_all(data, split), size=sizes[split]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Pixels(nn.Module):
    """Its first outputs are pixels as it sees them."""

    def __init__(self, preprocessing, class_names=None, num_classes=4):
        super().__init__()
        self.preprocessing, self.class_names, self.num_classes = preprocessing, class_names, num_classes

    def forward(self, x):
        assert not self.training
        return x.flatten(1)[:, : self.num_classes]


def teacher_of(network, student=CIFAR, names=("a", "b", "c", "d"), size=None):
    return Teacher(
        network,
        "runs/big",
        student=student,
        image_size=size or student.image_size,
        class_names=names,
        precision="fp32",
    )


# ---- what the teacher sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [replace(IMAGENET, image_size=32, resize=32), replace(CIFAR, std=(0.5, 0.25, 1.0))])
def test_a_teacher_sees_the_pixels_as_its_own_preprocessing_makes_them(own):
    pixels = torch.randint(256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0)).double() / 255
    students, teachers = (
        (pixels - torch.tensor(p.mean, dtype=torch.float64).view(3, 1, 1))
        / torch.tensor(p.std, dtype=torch.float64).view(3, 1, 1)
        for p in (CIFAR, own)
    )
    found = teacher_of(Pixels(own))(students.float())
    expected = teachers.flatten(1)[:, :4]
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6 * expected.abs().max().item())


def test_the_same_preprocessing_leaves_the_images_as_they_are():
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(teacher_of(Pixels(CIFAR))(images), images.flatten(1)[:, :4])


def test_images_of_another_size_are_resized_and_that_is_said():
    own = replace(CIFAR, image_size=48, resize=48, interpolation="bicubic")
    teacher, images = teacher_of(Pixels(own), size=24), torch.randn(2, 3, 24, 24)
    expected = F.interpolate(images, (48, 48), mode="bicubic", antialias=True).flatten(1)[:, :4]
    torch.testing.assert_close(teacher(images), expected)
    assert any("sees images of 48 pixels" in note and "those of 24 are resized" in note for note in teacher.notes)


def test_a_teacher_stays_in_evaluation_mode_and_records_no_gradients():
    teacher = teacher_of(create_model("cifar_se_resnet20", num_classes=4))
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not teacher(torch.randn(2, 3, 32, 32, requires_grad=True)).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


# ---- its classes -----------------------------------------------------------------------------------------------------


def test_classes_are_matched_by_name():
    images = torch.randn(2, 3, 32, 32)
    named = teacher_of(Pixels(CIFAR, class_names=("d", "b", "a", "c")))
    assert torch.equal(named(images), images.flatten(1)[:, [2, 1, 3, 0]])
    unnamed = teacher_of(Pixels(CIFAR))
    assert any("has no class names" in note for note in unnamed.notes)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Pixels(CIFAR, ("a", "b", "c", "e")), "runs/big has no class 'd', which only the data have"),
        (Pixels(CIFAR, ("a", "b", "c", "d", "e")), "runs/big has 5 classes, 'e' among them, and the data 4"),
        (Pixels(CIFAR, num_classes=7), "runs/big has 7 classes without names, and the data 4"),
        (Pixels(CIFAR.with_channels(1)), "runs/big takes images of 1 channels, but the run's have 3"),
    ],
)
def test_a_teacher_of_other_classes_or_channels_is_refused_in_one_sentence(network, said):
    with pytest.raises(SenetError) as error:
        teacher_of(network)
    assert_one_sentence(error, said)


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model folder of a network that knows nothing."""
    torch.manual_seed(1)
    model = create_model(RUN.model.name, 10, 1)
    model.preprocessing, model.class_names = RUN.data.preprocessing, NAMES
    folder = tmp_path_factory.mktemp("teacher") / "model"
    save_pretrained(model, folder)
    return folder


def distilled(teacher, **options):
    return replace(RUN, objective=ObjectiveConfig(teacher=str(teacher), **options))


@pytest.mark.slow
def test_students_learn_from_a_teacher_what_their_labels_do_not_say(tmp_path: Path, monkeypatch):
    """Half of the labels are wrong; a teacher who has seen all digits knows better."""
    with monkeypatch.context() as patch:
        patch.setattr(loading, "open_split", open_all)
        teacher = train(replace(RUN, epochs=3, seed=7), tmp_path / "teacher")
    decode = loading.decode

    def with_wrong_labels(images, preprocessing):
        pixels, labels = decode(images, preprocessing)
        if len(labels) == 96:
            labels = torch.where(torch.arange(96) % 2 == 0, labels, (labels * 7 + 3) % 10)
        return pixels, labels

    monkeypatch.setattr(loading, "decode", with_wrong_labels)
    longer = {"epochs": 10, "regularization": RegularizationConfig()}
    alone = train(replace(RUN, **longer), tmp_path / "alone")
    taught = train(replace(distilled(teacher, distillation=0.9), **longer), tmp_path / "taught")
    top1 = [read_jsonl(run / "metrics.jsonl")[-1]["top1"] for run in (alone, taught)]
    assert top1[1] > top1[0] + 10


def test_a_run_with_a_teacher_resumes_bit_for_bit_and_saves_the_student_alone(tmp_path: Path, teacher, monkeypatch):
    regularization = RegularizationConfig(mixup=0.2, label_smoothing=0.1)
    config = replace(distilled(teacher), batch_size=48, regularization=regularization)
    whole = train(config, tmp_path / "whole")
    shutil.copytree(teacher, tmp_path / "teacher")
    moved = replace(config, objective=replace(config.objective, teacher=str(tmp_path / "teacher")))
    stopped = stop_after_an_epoch(moved, tmp_path / "stopped", monkeypatch)
    shutil.move(tmp_path / "teacher", tmp_path / "gone")
    with pytest.raises(SenetError) as error:
        resume(stopped)
    assert_one_sentence(
        error, "objective.teacher is", "is not there", "restore it, or start a run with another teacher"
    )
    shutil.copytree(whole, tmp_path / "teacher")
    with pytest.raises(SenetError) as error:
        resume(stopped)
    assert_one_sentence(error, "the weights of objective.teacher", "have changed since the run started")
    shutil.rmtree(tmp_path / "teacher")
    shutil.move(tmp_path / "gone", tmp_path / "teacher")
    resume(stopped)
    states = [torch.load(run / "last" / "training_state.pt", weights_only=True) for run in (whole, stopped)]
    for state in states:
        assert state["model"].keys() == create_model(RUN.model.name, 10, 1).state_dict().keys()
    assert all(torch.equal(states[0]["model"][key], tensor) for key, tensor in states[1]["model"].items())
    assert from_pretrained(whole).class_names == NAMES


def stop_after_an_epoch(config, folder, monkeypatch):
    ends = []
    original = Trainer.end_epoch

    def end_epoch(trainer, *args):
        original(trainer, *args)
        ends.append(None)
        trainer.caught.append(15)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "end_epoch", end_epoch)
        with pytest.raises(TrainingInterrupted):
            train(config, folder)
    assert len(ends) == 1
    return folder


def test_the_loss_of_a_step_is_the_formula(tmp_path: Path, teacher, monkeypatch):
    config = replace(
        distilled(teacher, distillation=0.25, temperature=3.0),
        epochs=1,
        batch_size=96,
        regularization=RegularizationConfig(),
    )
    seen = []
    original = objective.logits_of

    def logits_of(network, images, precision):
        logits = original(network, images, precision)
        if network.training or not torch.is_grad_enabled():
            seen.append((images.detach().clone(), logits.detach().clone()))
        return logits

    monkeypatch.setattr(objective, "logits_of", logits_of)
    monkeypatch.setattr(distillation, "logits_of", logits_of)
    (row,) = read_jsonl(train(config, tmp_path / "run") / "metrics.jsonl")
    (images, own), (shown, taught) = seen[:2]
    assert torch.equal(images, shown)
    torch.testing.assert_close(taught, load_model(str(teacher))(images))
    ((_, labels),) = loading.load_data(config.data, batch_size=96, device=torch.device("cpu"), seed=0).train.batches(0)
    p, q = (taught.double() / 3).softmax(1), (own.double() / 3).softmax(1)
    divergence = 9 * (p * (p.log() - q.log())).sum(1).mean()
    expected = 0.75 * F.cross_entropy(own.double(), labels) + 0.25 * divergence
    assert row["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_teacher_that_is_not_there_is_refused_before_the_run_has_a_folder(tmp_path: Path):
    with pytest.raises(SenetError) as error:
        train(distilled(tmp_path / "nowhere"), tmp_path / "run")
    assert_one_sentence(error, "objective.teacher is", "nowhere")
    assert not (tmp_path / "run").exists()
