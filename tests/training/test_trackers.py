"""Metrics at other services: with a fake tracker in accelerate, and offline with the real packages where installed."""

import json
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from accelerate import PartialState, tracking

import senet
from senet.errors import SenetError
from senet.files import read_jsonl
from senet.recipes.digits import digits
from senet.training import trackers
from senet.training.config import TrainConfig
from senet.training.interrupt import TrainingInterrupted
from senet.training.sections import ComputeConfig
from senet.training.trackers import IDS_FILE, Trackers, check_installed, hyperparameters
from senet.training.trainer import Trainer

CONFIG = replace(digits(), epochs=2, compute=ComputeConfig(cpu=True), trackers=("wandb",))
ROWS = [{"epoch": 1, "step": 3, "loss": 0.5, "top1": 60.0}, {"epoch": 2, "step": 6, "loss": 0.25, "top1": 70.0}]


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def _one_process() -> None:
    PartialState(cpu=True)  # accelerate's trackers ask which process this is


class Run:
    """What the fake service calls a run."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.exit_code: int | None = None

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code


class Fake(tracking.GeneralTracker):  # type: ignore[misc]
    """Stands in for accelerate's tracker of Weights & Biases, and notes what it is told."""

    name, requires_logging_directory, main_process_only = "wandb", False, True
    started: ClassVar[list["Fake"]] = []
    failing: ClassVar[set[str]] = set()

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.project, self.options = project, options
        self.config: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, float]]] = []

    def start(self) -> None:
        if "start" in self.failing:
            raise RuntimeError("no api key\nand more")
        self.run = Run(self.options["id"] or f"id{len(self.started)}")
        self.started.append(self)

    @property
    def tracker(self) -> Run:
        return self.run

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        if "log" in self.failing:
            raise ConnectionError("server is away")
        assert step is not None
        self.rows.append((step, values))

    def finish(self) -> None:
        self.run.finish()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    for variable in ("WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    Fake.started, Fake.failing = [], set()
    return Fake


def in_service(config: TrainConfig, folder: Path, done_epochs: int | None = None) -> None:
    """Open trackers, and close them again."""
    with Trackers(folder, config, done_epochs):
        pass


@pytest.mark.usefixtures("few_digits")
def test_a_run_that_goes_on_continues_the_same_run_there(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "my run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", stop_in_epoch(2))
        with pytest.raises(TrainingInterrupted):
            senet.train(CONFIG, run)
    senet.resume(run)
    first, second = fake.started
    assert (first.project, first.options["name"], first.options["id"]) == ("senet", "my run", None)
    assert first.options["dir"] == str(run)
    assert second.options["id"] == first.run.id == "id0"
    assert (first.run.exit_code, second.run.exit_code) == (1, 0)
    rows = read_jsonl(run / "metrics.jsonl")
    metrics = [(row.pop("step"), row) for row in rows]
    lines = read_jsonl(run / "steps.jsonl")
    left_out = ("step", "epoch", "batch", "steps")
    of_steps = [(row["step"], {f"steps/{k}": v for k, v in row.items() if k not in left_out}) for row in lines]
    assert len(of_steps) == 2  # at the end of each epoch
    assert first.rows + second.rows == [of_steps[0], metrics[0], of_steps[1], metrics[1]]
    assert first.config["optimizer.lr"] == CONFIG.optimizer.lr
    assert first.config["model.name"] == "cifar_se_resnet20"
    assert not list(run.glob("events*"))  # TensorBoard was not asked for


def stop_in_epoch(number: int) -> Callable[..., None]:
    train_epoch = Trainer.train_epoch

    def stopping(self: Any, reporter: Any) -> None:
        if self.position.epoch + 1 == number:
            self.caught.append(2)
            self.save({}, best=False)
            self.interrupt()
        train_epoch(self, reporter)

    return stopping


def test_what_was_not_sent_is_sent_later(fake: type[Fake], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_rows(tmp_path / "run", ROWS)
    fake.failing.add("log")
    in_service(CONFIG, folder)
    assert "run: wandb takes no metrics (server is away); they are sent again later" in caplog.text
    fake.failing.clear()
    in_service(CONFIG, folder, 2)
    in_service(CONFIG, folder, 2)  # and no more than once
    sent = [row for tracker in fake.started for row in tracker.rows]
    assert sent == [(3, {"epoch": 1, "loss": 0.5, "top1": 60.0}), (6, {"epoch": 2, "loss": 0.25, "top1": 70.0})]


def test_a_service_that_is_away_is_left_alone_for_a_while(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure that takes 7 seconds is repeated after 70, and at the end."""
    now, tries = [0.0], []

    def log(self: Any, *_: Any, **__: Any) -> None:
        tries.append(now[0])
        now[0] += 7
        raise ConnectionError("server is away")

    monkeypatch.setattr(trackers, "clock", lambda: now[0])
    monkeypatch.setattr(Fake, "log", log)
    with Trackers(write_rows(tmp_path / "away", ROWS), CONFIG, None) as opened:
        for moment in (10.0, 70.0, 78.0, 90.0):
            now[0] = moment
            opened.send()
    assert tries == [0.0, 78.0, 90.0]
    assert "server is away); resuming sends them again" in caplog.text


def test_names_and_long_values(fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "other")
    monkeypatch.setenv("WANDB_DIR", "/elsewhere")
    names = tuple(f"class {i}" for i in range(1000))
    config = replace(CONFIG, data=replace(CONFIG.data, class_names=names))
    in_service(config, write_rows(tmp_path / "run", []))
    (tracker,) = fake.started
    assert tracker.project == "other"
    assert "dir" not in tracker.options
    assert tracker.config["data.class_names"].startswith("class 0, class 1, ")
    assert len(tracker.config["data.class_names"]) == 500
    assert {type(value) for value in tracker.config.values()} <= {bool, int, float, str, type(None)}


def test_a_service_that_does_not_start_is_one_sentence(fake: type[Fake], tmp_path: Path) -> None:
    fake.failing.add("start")
    with pytest.raises(SenetError) as caught:
        in_service(CONFIG, write_rows(tmp_path / "run", []))
    assert str(caught.value) == (
        "the tracker wandb cannot start (no api key); log in by `wandb login`, or set WANDB_MODE=offline, "
        f"or leave it out: `senet train --resume {tmp_path / 'run'} --trackers`"
    )
    (tmp_path / "run" / IDS_FILE).write_text('{"wandb": 1}')
    with pytest.raises(SenetError, match=r"trackers\.json cannot be read .*; remove it"):
        Trackers(tmp_path / "run", CONFIG, None)


def test_a_missing_package_is_told_before_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (("wandb", "wandb"), ("mlflow", "mlflow"), ("comet_ml", "comet")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(SenetError, match=rf"the tracker {name} needs .*; run: pip install 'senet\[{extra}\]'"):
            senet.train(replace(CONFIG, trackers=(name,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_installed(("tensorboard",))


def test_tensorboard_has_each_epoch_once_whatever_a_killed_run_wrote(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(CONFIG, trackers=("tensorboard",))
    folder = write_rows(tmp_path / "run", ROWS)
    in_service(config, folder)
    write_rows(folder, [ROWS[0], ROWS[1] | {"loss": 0.125}])  # the second epoch again, after a kill
    in_service(config, folder, 1)
    events = EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.125)]
    assert set(events.Tags()["scalars"]) == {"loss", "top1"}


# ---- the real packages, offline --------------------------------------------------------------------------------------


def twice(name: Any, folder: Path) -> None:
    """Send one epoch, end, and go on with the second epoch."""
    config = replace(CONFIG, trackers=(name,))
    in_service(config, write_rows(folder, ROWS[:1]))
    time.sleep(1)  # offline, Weights & Biases names a session's folder by the second
    in_service(config, write_rows(folder, ROWS), 1)


def wandb_records(file: Path) -> list[Any]:
    """Read an offline run: protobuf messages in LevelDB's log format, after seven bytes of Weights & Biases' own."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no room for another header in the block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            found.append(Record.FromString(whole))
            whole = b""
    return found


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    twice("wandb", tmp_path / "my_run")
    wandb.teardown()  # which waits until the files are written
    files = sorted(tmp_path.glob("my_run/wandb/offline-run-*/*.wandb"))
    records = [record for file in files for record in wandb_records(file)]
    runs = [record.run for record in records if record.HasField("run")]
    assert {run.run_id for run in runs} == {json.loads((tmp_path / "my_run" / IDS_FILE).read_text())["wandb"]["id"]}
    assert {(run.project, run.display_name) for run in runs} == {("senet", "my_run")}
    sent = []
    for record in records:
        if record.HasField("history"):
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            sent.append({key: items[key] for key in ("_step", "loss", "top1")})
    assert sent == [{"_step": row["epoch"], "loss": row["loss"], "top1": row["top1"]} for row in ROWS]


@pytest.mark.slow
def test_mlflow_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    twice("mlflow", tmp_path / "my_run")
    client = mlflow.MlflowClient()
    (experiment,) = (e for e in client.search_experiments() if e.name == "senet")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads((tmp_path / "my_run" / IDS_FILE).read_text())["mlflow"]["id"]
    assert (run.info.run_name, run.info.status) == ("my_run", "FINISHED")
    assert run.data.params["optimizer.lr"] == str(CONFIG.optimizer.lr)
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(1, 0.5), (2, 0.25)]
    with pytest.raises(RuntimeError), Trackers(tmp_path / "my_run", replace(CONFIG, trackers=("mlflow",)), 2):
        raise RuntimeError
    assert client.get_run(run.info.run_id).info.status == "FAILED"


@pytest.mark.slow
def test_comet_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("comet_ml")
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    twice("comet_ml", tmp_path / "my_run")
    key = json.loads((tmp_path / "my_run" / IDS_FILE).read_text())["comet_ml"]["id"]
    archives = sorted(tmp_path.glob("my_run/comet/*.zip"), key=lambda file: file.stat().st_mtime)
    assert len(archives) == 2
    metrics, parameters, names = [], {}, set()
    for archive in archives:
        with zipfile.ZipFile(archive) as files:
            about = json.loads(files.read("experiment.json"))
            messages = [json.loads(line) for line in files.read("messages.json").splitlines()]
        assert (about["offline_id"], about["project_name"]) == (key, "senet")
        for message in messages:
            payload = message["payload"]
            if message["type"] == "metric_msg" and payload["metric"]["metricName"] in ("loss", "top1"):
                found = payload["metric"]
                metrics.append((found["step"], found["metricName"], found["metricValue"]))
            elif message["type"] == "parameter_msg":
                parameters[payload["param"]["paramName"]] = payload["param"]["paramValue"]
            names |= {payload.get("val")} if payload.get("key") == "Name" else set()
    assert metrics == [(row["epoch"], key, row[key]) for row in ROWS for key in ("loss", "top1")]
    assert parameters["optimizer.lr"] == hyperparameters(CONFIG)["optimizer.lr"]
