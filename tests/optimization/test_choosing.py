"""backend="auto": the fastest backend of this machine, chosen once for each network and shape, and remembered."""

import copy
import json
import logging
import pickle
import shutil
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import pytest
import torch

import senet
from drivers import ENVIRONMENT, command
from networks import assert_relatively_close, randomize
from senet.models.resnet import cifar_resnet
from senet.nn import precision as precision_module
from senet.optimization import choosing, inference
from senet.optimization.choosing import AutoRunner, agree, candidates
from senet.optimization.inference import InferenceModel
from senet.optimization.rewriting import rewrite
from senet.optimization.runners import EagerRunner

FLOAT32 = 1e-5


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder; measuring is cut short."""
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choosing, "MEASURE_S", 0.01)
    choosing.choices.cache_clear()
    return tmp_path / "cache" / "backends"


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = cifar_resnet(8, se=senet.SEOptions(reduction=4))
    randomize(model)
    return model.eval()


X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Slow(EagerRunner):
    """A runner that is slower than another by far, and counts its calls."""

    def __init__(self, graph, seconds, calls):
        super().__init__(graph)
        self.seconds, self.calls = seconds, calls

    def __call__(self, x):
        self.calls.append(x.shape)
        time.sleep(self.seconds)
        return super().__call__(x)


@pytest.fixture
def seconds():
    """How slow the backends are."""
    return {"eager": 0.02, "onednn": 0.0, "openvino": 0.04}


@pytest.fixture
def calls(monkeypatch, seconds):
    """Put runners of known speed in the place of the backends; return the calls of each."""
    calls = {"eager": [], "onednn": [], "openvino": []}
    monkeypatch.setattr(choosing, "candidates", lambda graph, any_size: tuple(calls))
    monkeypatch.setattr(
        choosing, "runner_of", lambda graph, name, precision, any_size: Slow(graph, seconds[name], calls[name])
    )
    return calls


@torch.no_grad()
def test_the_fastest_is_chosen_shown_and_logged(model, calls, cache, caplog):
    caplog.set_level(logging.INFO, "senet.optimization")
    fast = senet.optimize_for_inference(model)
    assert (fast.backend, fast.requested) == ("auto", "auto")
    assert "backend=auto (chosen at the first call)" in repr(fast)
    assert_relatively_close(fast(X), model(X), FLOAT32)
    assert fast.backend == "onednn"
    assert "backend=auto (onednn), precision=fp32, micro_batch=4" in repr(fast)
    assert [record.message for record in caplog.records][-1].startswith("images of 2x3x16x16 run with onednn")
    (file,) = cache.iterdir()
    found = json.loads(file.read_text())
    assert found["backend"] == "onednn"
    assert found["milliseconds"]["eager"] >= 20


@pytest.mark.parametrize("kept", ["in memory", "on disk"])
def test_what_was_chosen_is_not_measured_again(model, calls, kept, cache):
    senet.optimize_for_inference(model)(X)
    if kept == "on disk":
        choosing.choices.cache_clear()
    else:
        shutil.rmtree(cache)
    assert all(calls.values())
    for each in calls.values():
        each.clear()
    again = senet.optimize_for_inference(copy.deepcopy(model))
    again(X)
    again(X)
    assert {name: len(each) for name, each in calls.items()} == {"eager": 0, "onednn": 3, "openvino": 0}


def test_each_shape_network_and_precision_is_chosen_for_by_itself(model, calls, seconds, cache, monkeypatch):
    fast = senet.optimize_for_inference(model)
    fast(X)
    seconds |= {"eager": 0.0, "onednn": 0.02}
    fast(X[:1])
    assert fast.backend == "eager"
    assert "backend=auto (onednn for 1 shape, eager for 1 shape)" in repr(fast)
    fast(X)
    assert fast.backend == "onednn"
    senet.optimize_for_inference(cifar_resnet(8).eval())(X)
    monkeypatch.setattr(precision_module, "has_bf16", lambda _: True)
    senet.optimize_for_inference(model, precision="bf16")(X)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    senet.optimize_for_inference(model)(X)
    assert len(list(cache.iterdir())) == 5


def test_each_processor_and_compiler_is_chosen_for_by_itself(model, calls, cache, monkeypatch):
    """As where several machines share a home; without a compiler, what needs one was left out."""
    for name in ("processor", "compiler"):
        senet.optimize_for_inference(model)(X)
        monkeypatch.setattr(choosing, name, lambda: "another one")
    senet.optimize_for_inference(model)(X)
    assert len(list(cache.iterdir())) == 3
    monkeypatch.undo()
    assert "flags" in choosing.processor() or "Features" in choosing.processor() or sys.platform != "linux"
    assert "__VERSION__" in choosing.compiler()
    monkeypatch.setenv("CXX", "/nonexistent")
    assert choosing.compiler() == ""


@pytest.mark.parametrize("content", ["", "{", "[]", '{"backend": 3}', '{"backend": "tensorrt"}', "\x00\x01"])
def test_a_damaged_file_is_measured_again(model, calls, cache, content):
    senet.optimize_for_inference(model)(X)
    (file,) = cache.iterdir()
    good = json.loads(file.read_text())["backend"]
    file.write_text(content)
    choosing.choices.cache_clear()
    fast = senet.optimize_for_inference(model)
    fast(X)
    assert fast.backend == json.loads(file.read_text())["backend"] == good


def test_a_cache_that_cannot_be_written(model, calls, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "file" / "cache"))
    fast = senet.optimize_for_inference(model)
    fast(X)
    assert fast.backend == "onednn"


def test_without_a_home_nothing_is_remembered(model, calls, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(choosing, "cache_folder", no_home)
    fast = senet.optimize_for_inference(model)
    fast(X)
    assert fast.backend == "onednn"


def test_what_fails_or_is_wrong_is_left_out_and_named(model, calls, cache, monkeypatch, caplog):
    usual = choosing.runner_of

    def runner_of(graph, name, precision, any_size):
        if name == "openvino":
            raise RuntimeError("no such device\nand more")
        run = usual(graph, name, precision, any_size)
        return (lambda x: run(x) + 1) if name == "onednn" else run

    monkeypatch.setattr(choosing, "runner_of", runner_of)
    fast = senet.optimize_for_inference(model)
    assert_relatively_close(fast(X), model(X).detach(), FLOAT32)
    assert fast.backend == "eager"
    assert [record.message for record in caplog.records] == [
        "backend 'onednn' is left out, for its outputs differ from PyTorch's",
        "backend 'openvino' is left out, for it fails: no such device",
    ]
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["left_out"] == ["onednn", "openvino"]


def test_a_choice_that_fails_now_is_made_again(model, calls, monkeypatch):
    senet.optimize_for_inference(model)(X)
    usual = choosing.runner_of

    def runner_of(graph, name, precision, any_size):
        if name == "onednn":
            raise OSError("a library is missing")
        return usual(graph, name, precision, any_size)

    monkeypatch.setattr(choosing, "runner_of", runner_of)
    fast = senet.optimize_for_inference(model)
    fast(X)
    assert fast.backend == "eager"


def test_compiling_takes_no_longer_than_a_bound(model, calls, seconds, monkeypatch):
    seconds |= {"eager": 0.1}
    monkeypatch.setattr(choosing, "PREPARE_S", 0.05)
    fast = senet.optimize_for_inference(model)
    fast(X)
    assert fast.backend == "eager"
    assert not calls["onednn"]
    assert not calls["openvino"]


def test_many_shapes_end_measuring(model, calls, monkeypatch, caplog):
    monkeypatch.setattr(choosing, "MAX_SHAPES", 2)
    fast = senet.optimize_for_inference(model)
    for side in (8, 12, 16, 20):
        fast(torch.zeros(1, 3, side, side))
    assert fast.backend == "eager"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert fast(torch.zeros(0, 3, 8, 8)).shape == (0, 10)


def test_for_images_of_many_sizes_it_chooses_once(model, calls, seconds, cache):
    seconds |= {"openvino": 0.0, "onednn": 0.02}
    fast = AutoRunner(rewrite(model), "fp32", any_size=True)
    fast(X)
    number = len(calls["eager"])
    for side in (8, 12, 20):
        fast(torch.zeros(side % 3 + 1, 3, side, side))
    assert (fast.latest, len(calls["eager"]), len(list(cache.iterdir()))) == ("openvino", number, 1)


def test_threads_choose_once(model, calls):
    fast, outputs = senet.optimize_for_inference(model), []
    threads = [threading.Thread(target=lambda: outputs.append(fast(X))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fast.run.runners) == 1
    for output in outputs:
        assert torch.equal(output, outputs[0])


def test_copies_choose_for_themselves(model, calls):
    fast = senet.optimize_for_inference(model)
    fast(X)
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert again.backend == "auto"
        assert torch.equal(again(X), fast(X))
        assert again.backend == "onednn"


def test_a_network_in_float64_stays_in_it(model):
    fast = senet.optimize_for_inference(model.double())
    with torch.no_grad():
        assert_relatively_close(fast(X.double()), model(X.double()).float(), 1e-6)
    assert fast.backend == "eager"


@pytest.mark.parametrize("any_size", [False, True])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_every_candidate_of_this_machine_agrees(model, precision, any_size):
    expected = model(X).detach()
    graph = rewrite(model)
    tried = candidates(graph, any_size=any_size)
    prepared = AutoRunner(graph, precision, any_size=any_size).prepared(tried, X)
    assert set(prepared) == set(tried)
    for runner in prepared.values():
        assert_relatively_close(runner(X).float(), expected, FLOAT32 if precision == "fp32" else 0.05)


def test_what_agrees():
    one = torch.tensor([1.0, 2.0])
    assert agree(one, one * 1.0005, 1e-3)
    assert not agree(one, one * 1.005, 1e-3)
    assert not agree((one, one), (one, one + 1), 1e-3)
    assert not agree(one * torch.nan, one, 1e-3)
    assert agree(one, one * torch.nan, 1e-3)  # no evidence


@pytest.mark.slow
def test_two_processes_choose_at_once(tmp_path):
    environment = {**ENVIRONMENT, "SENET_CACHE": str(tmp_path / "shared")}
    words = command("choosing_a_backend.py")
    both = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.communicate(timeout=120)[0].strip() in ("eager", "onednn", "openvino")
        assert process.returncode == 0
    (file,) = (tmp_path / "shared" / "backends").iterdir()
    third = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert third.stdout.strip() == json.loads(file.read_text())["backend"]


def test_on_a_gpu_it_is_inductor(model, monkeypatch):
    monkeypatch.setattr(inference, "device_of", lambda model: torch.device("cuda"))
    monkeypatch.setattr(inference, "BatchRunner", lambda graph: graph)
    monkeypatch.setattr(inference, "float32_products", lambda device, precision: nullcontext())
    fast = InferenceModel(rewrite(model), "auto", "fp32", None, "off")
    assert fast.backend == "inductor"
    assert_relatively_close(fast(X), model(X).detach(), FLOAT32)
    low = InferenceModel(rewrite(model), "auto", "bf16", None, "off")  # as after a move from the CPU
    assert next(low.network.parameters()).dtype == torch.bfloat16


def test_without_openvino_it_is_not_tried(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(choosing, "find_spec", lambda name: None)
    assert candidates(rewrite(model)) == ("eager", "onednn")
    assert candidates(rewrite(model), any_size=True) == ("eager",)
