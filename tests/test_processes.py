"""Processes that work together: messages, shares, and what the library's functions make of them.

The processes are forks of this one, which has PyTorch already, so that they start at once.
"""

import functools
import operator
import pickle
import re

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from PIL import Image

import senet
from senet.analysis.knockout import knock_out_blocks
from senet.cli import main
from senet.data.config import DataConfig
from senet.errors import SenetError
from senet.evaluation.prediction import predict_each
from senet.processes import Team, current_team, shared_work

NUMBER = 3


def started(rank, work, folder):
    """Do some work in one of the processes, and write what it returns."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=NUMBER)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(work(rank)))
    dist.barrier()  # before one of them leaves


def in_processes(work, folder):
    """Return what each process makes of some work."""
    torch.multiprocessing.start_processes(started, (work, folder), nprocs=NUMBER, start_method="fork")
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(NUMBER)]


# ---- messages --------------------------------------------------------------------------------------------------------


def messages(rank):
    with shared_work() as team:
        part = None if rank == 1 else torch.tensor([rank, 10.0])  # the second process has nothing to add
        large = torch.arange(3) * rank
        team.add_up(large)
        return {
            "is first": team.is_first,
            "everyone": team.everyone(rank),
            "to first": team.to_first(f"of {rank}"),
            "from first": team.from_first(lambda: f"made by {rank}"),
            "added": team.added(part).tolist(),
            "add up": large.tolist(),
            "in turn": [list(team.in_turn(iter(list(team.share(range(number)))))) for number in range(8)],
            "taken": list(team.taken(range(20))),
            "again": list(team.taken(range(5))),
        }


def test_messages(tmp_path):
    found = in_processes(messages, tmp_path)
    assert [each.pop("is first") for each in found] == [True, False, False]
    assert [each.pop("to first") for each in found] == [["of 0", "of 1", "of 2"], [], []]
    turns = [each.pop("in turn") for each in found]
    assert turns == [[list(range(number)) for number in range(8)], [[]] * 8, [[]] * 8]  # also fewer than processes
    for key, number in (("taken", 20), ("again", 5)):
        taken = [each.pop(key) for each in found]
        assert sorted(functools.reduce(operator.iadd, taken, [])) == list(range(number))
        assert all(each == sorted(each) for each in taken)
    expected = {"everyone": [0, 1, 2], "from first": "made by 0", "added": [2.0, 20.0], "add up": [0, 3, 6]}
    assert found == [expected] * NUMBER


def failing(rank):
    try:
        with shared_work() as team:
            if rank == 1:
                raise SenetError("the picture cannot be read")
            team.everyone(rank)
    except SenetError as error:
        return str(error)


def test_an_error_in_one_is_an_error_in_all(tmp_path):
    assert in_processes(failing, tmp_path) == ["the picture cannot be read"] * NUMBER


def failing_last(rank):
    try:
        with shared_work() as team:
            if team.is_first:
                raise SenetError("the page cannot be written")
    except SenetError as error:
        return str(error)


def test_the_processes_leave_the_block_together(tmp_path):
    assert in_processes(failing_last, tmp_path) == ["the page cannot be written"] * NUMBER


def test_one_process_shares_nothing_and_stores_nothing():
    with shared_work() as team:
        assert (team.size, team.rank, current_team() is team) == (1, 0, True)
        assert list(team.in_turn(team.share("abc"))) == list(team.taken("abc")) == ["a", "b", "c"]
        assert team.everyone(1) == team.to_first(1) == [1]
        assert team.from_first(lambda: 2) == 2
        assert not hasattr(team, "store")
    assert current_team() is not team


def test_processes_that_cannot_be_joined_are_told_how(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(SenetError, match=r"the 2 processes that WORLD_SIZE announces.*start them by torchrun, or unset"),
        shared_work(),
    ):
        raise AssertionError("not joined")


# ---- the library's functions -----------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    model = senet.create_model("cifar_se_resnet20", num_classes=2)
    model.class_names = ("cat", "dog")
    model.preprocessing = senet.Preprocessing(image_size=8, resize=8, mean=(0.5,) * 3, std=(0.3,) * 3)
    return model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four of them: in batches of one, the last batch has a picture for one of three processes."""
    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(4):
        folder = root / "val" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    return root


def results(data, size):
    """Return what functions find on pictures."""
    model, config = network(), DataConfig(dataset=str(data), num_workers=0)
    recording = senet.record_excitations(model, config, batch_size=size)
    compared = senet.compare([model, model], config, ensemble=True, names=["a", "b"], batch_size=size).to_dict()
    for each in (*compared["models"], compared["ensemble"]):
        each.pop("seconds")
    predicted = predict_each(model, data / "val", batch_size=size, num_workers=0)
    return {
        "evaluation": senet.evaluate(model, config, batch_size=size),
        "knockout": knock_out_blocks(model, config, recording=recording, batch_size=size).blocks[2].evaluation.loss,
        "compared": compared,
        "scores": senet.score_images(model, config, batch_size=size).log_probabilities.tolist(),
        "predictions": [(each.image, [c.class_name for c in each.classes]) for each in predicted],
        "gates": [record.overall_mean.tolist() for record in recording.blocks],
        "spread": [record.overall_variance.sqrt().tolist() for record in recording.blocks],
        "counts": [record.histogram.sum().item() for record in recording.blocks],
    }


def near(value):
    """Return what equals a value but for rounding."""
    if isinstance(value, dict):
        return {key: near(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(near, value))
    return pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value


@pytest.mark.parametrize("size", [1, 8])
def test_functions_find_what_one_process_finds(pictures, tmp_path, size):
    """With batches of 8 one of the three processes has two pictures, and the others one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes, and nothing that a fork could wait for
    try:
        alone = results(pictures, size)
        shared = in_processes(lambda rank: sharing(pictures, size), tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert len(alone["predictions"]) == 4
    assert alone["evaluation"].num_images == 4
    for rank, found in enumerate(shared):
        predictions = found.pop("predictions")
        assert predictions == (alone["predictions"] if rank == 0 else [])
        evaluation = found.pop("evaluation")
        assert vars(evaluation) == near(vars(alone["evaluation"]))
        assert found == near({key: alone[key] for key in found})


def sharing(data, size):
    with shared_work():
        return results(data, size)


def given_batches(rank):
    with shared_work():
        try:
            senet.evaluate(network(), [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))])
        except SenetError as error:
            return str(error)


def test_batches_of_the_caller_cannot_be_shared(tmp_path):
    found = in_processes(given_batches, tmp_path)
    assert set(found) == {
        "data is batches, which 3 processes cannot share; name a folder or a data set, or call this outside shared_work"
    }


def alone_in_a_group(rank):
    """Outside of the block nothing is shared, so one process may call what the others do not."""
    if rank == 1:
        return senet.evaluate(network(), [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))]).num_images
    return Team().everyone(rank)


def test_outside_of_the_block_each_process_works_alone(tmp_path):
    assert in_processes(alone_in_a_group, tmp_path) == [[0], 2, [2]]


# ---- the environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''; expected a whole number; unset it, or start by torchrun"),
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc'; expected a whole number"),
        ({"LOCAL_RANK": "x", "WORLD_SIZE": "1"}, "LOCAL_RANK is 'x'|invalid literal"),
        ({"WORLD_SIZE": "2"}, "the processes that the environment announces cannot be joined .*MASTER_ADDR"),
        (
            {"LOCAL_RANK": "0"},
            "cannot be joined .*; start them by torchrun or `accelerate launch`, or unset LO",
        ),
        ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK is 5, but WORLD_SIZE is 2; expected 0 to 1; start by torchrun"),
    ],
)
def test_an_environment_that_announces_nobody_is_one_sentence(environment, said, monkeypatch, tmp_path, capsys):
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a new process
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "digits", "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line
