"""The plan of the GPU benchmark: its order, its limit, what fails, and the file of results."""

import json
import os
import time
from functools import partial

import pytest

import plan
import seats
from plan import Measurement, Results, Wave, carry_out, start_results
from seats import Ready, Seat, SeatError


def sleeping(seconds):
    return Ready(run=partial(time.sleep, seconds), facts={"sleeps": seconds})


def raising():
    raise ValueError("no such network\nand more lines")


def raising_later():
    return Ready(run=raising)


def dying():
    os._exit(7)


def hanging():
    time.sleep(600)


class InThisProcess(Seat):
    """A seat without a process."""

    def start(self):
        pass

    def ask(self, command, value):
        self.asked = command, value

    def answer(self, deadline):
        command, value = self.asked
        try:
            if command == "build":
                self.ready = seats.build(value)
                return self.ready.facts
            return seats.seconds_of(self.ready.run, value)
        except ValueError as error:
            raise SeatError(str(error)) from error


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "gpu.json", {"date": "2026-11-27", "machine": "m", "versions": {}, "settings": {}})


def one(kind, builds, rounds=0, **setting):
    return Measurement(kind=kind, setting=setting, builds=builds, rounds=rounds)


def read(results):
    return json.loads(results.path.read_text())


def test_what_does_not_fit_is_left_out_and_named_and_shorter_waves_follow(results, monkeypatch):
    monkeypatch.setattr(plan, "Seat", InThisProcess)
    ready = partial(sleeping, 0)
    waves = [
        Wave(seconds=30, measurements=[one("first", {"a": ready})]),
        Wave(seconds=61, measurements=[one("long", {"a": ready}, batch=8)]),
        Wave(seconds=5, measurements=[one("last", {"a": ready})]),
    ]
    assert not carry_out(waves, results, minutes=1)
    assert [measured["name"] for measured in read(results)["measured"]] == ["first", "last"]
    assert list(read(results)["left_out"]) == ["long, batch 8"]
    assert read(results)["left_out"]["long, batch 8"].startswith("it takes about 61 s, and ")


def test_contestants_take_turns_and_one_that_fails_is_recorded(results, monkeypatch):
    monkeypatch.setattr(plan, "Seat", InThisProcess)
    builds = {"quick": partial(sleeping, 0), "slow": partial(sleeping, 0.01), "broken": raising, "fails": raising_later}
    assert not carry_out([Wave(seconds=1, measurements=[one("step", builds, rounds=3)])], results, minutes=1)
    (measured,) = read(results)["measured"]
    assert set(measured["milliseconds"]) == {"quick", "slow"}
    assert all(len(rounds) == 3 for rounds in measured["milliseconds"].values())
    assert min(measured["milliseconds"]["slow"]) >= 10
    assert set(measured["errors"]) == {"broken", "fails"}
    assert measured["facts"]["slow"]["sleeps"] == 0.01


def test_the_file_holds_each_result_at_once(results, monkeypatch):
    monkeypatch.setattr(plan, "Seat", InThisProcess)
    seen = []

    def look():
        seen.append([measured["name"] for measured in read(results)["measured"]] if results.path.exists() else [])
        return Ready()

    waves = [Wave(seconds=1, measurements=[one(name, {"a": look})]) for name in ("first", "second", "third")]
    assert carry_out(waves, results, minutes=1)
    assert seen == [[], ["first"], ["first", "second"]]
    assert [path.name for path in results.path.parent.iterdir()] == ["gpu.json"]


def test_again_measures_only_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "Seat", InThisProcess)
    path, settings = tmp_path / "gpu.json", {"rounds": 3}
    first = start_results(path, settings, ("torch",), again=True)
    waves = [Wave(seconds=1, measurements=[one("good", {"a": Ready}), one("bad", {"a": raising})])]
    assert not carry_out(waves, first, minutes=1)

    second = start_results(path, settings, ("torch",), again=True)
    assert [measured["name"] for measured in second.measured] == ["good"]
    waves = [Wave(seconds=1, measurements=[one("good", {"a": raising}), one("bad", {"a": Ready})])]
    assert carry_out(waves, second, minutes=1)
    assert [measured["name"] for measured in read(second)["measured"]] == ["good", "bad"]

    assert not start_results(path, {"rounds": 4}, ("torch",), again=True).measured
    assert not start_results(path, settings, ("torch",), again=False).measured


@pytest.mark.slow
def test_processes_that_raise_die_or_hang_leave_the_others_alone(results, monkeypatch):
    monkeypatch.setattr(plan, "LEAST_S", 15)
    builds = {
        "good": partial(sleeping, 0.01),
        "raises": raising,
        "dies": dying,
        "fails later": raising_later,
    }
    waves = [
        Wave(seconds=20, measurements=[one("step", builds, rounds=2, batch=1)]),
        Wave(seconds=20, measurements=[one("step", dict.fromkeys(builds, Ready), batch=1)]),
        Wave(seconds=0, measurements=[one("hangs", {"a": hanging})]),
    ]
    assert not carry_out(waves, results, minutes=5, patience=10)
    first, second, third = read(results)["measured"]
    assert list(first["milliseconds"]) == ["good"]
    assert first["errors"]["raises"] == "ValueError: no such network"
    assert first["errors"]["dies"] == "the process ended with status 7"
    assert set(first["errors"]) == {"raises", "dies", "fails later"}
    assert not second["errors"]  # each failed process was replaced
    assert third["errors"]["a"].startswith("no answer within")
