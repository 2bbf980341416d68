"""The code in README and docs: every block of Python runs, every command has only options that exist.

A block that cannot run here (it needs the network, or a file of the reader's) has a comment before it:
`<!-- not run: why -->`. Blocks of a page share their names, from top to bottom.
"""

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import senet
from fuzz.commands import options
from senet.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
WITH_CODE = [
    "README.md",
    *(f"docs/{name}.md" for name in ("analysis", "evaluation", "guide", "timm", "weights")),
]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def code_blocks(page, language):
    """Yield (line, text, reason not to run it or None) of each block of a language."""
    text = page.read_text()
    pattern = rf"(?:<!-- not run: (.+?) -->\n+)?```{language}\n(.*?)```"
    for match in re.finditer(pattern, text, re.DOTALL):
        yield text[: match.start(2)].count("\n") + 1, match[2], match[1]


def run(page, folder):
    """Run all blocks of a page in a folder, in one namespace."""
    names = {"__name__": "__main__"}
    with contextlib.chdir(folder):
        for line, code, reason in code_blocks(page, "python"):
            if reason is None:
                exec(compile("\n" * (line - 1) + code, page, "exec"), names)


@pytest.mark.parametrize("name", WITH_CODE)
def test_python_of_a_page_runs(name, tmp_path):
    run(ROOT / name, tmp_path)


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    assert all(reason is None for _, _, reason in code_blocks(ROOT / "docs/tutorial.md", "python"))
    run(ROOT / "docs/tutorial.md", tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 100_000


def run_in_turn(page, folder, said, **shortened):
    """Run every command and every block of Python of a page, with further options for some commands."""
    names = {"__name__": "__main__"}
    blocks = sorted([*code_blocks(page, "console"), *code_blocks(page, "python")])
    with contextlib.chdir(folder):
        for line, code, reason in blocks:
            for words in [] if reason else commands_of(code):
                assert main([*words, *shortened.get(words[0], [])]) == 0, (words, said.readouterr().err)
            if reason is None and not code.startswith("$"):
                exec(compile("\n" * (line - 1) + code, page, "exec"), names)


@pytest.mark.slow
def test_the_page_on_deployment_runs(tmp_path):
    run(ROOT / "docs/deploy.md", tmp_path)
    assert {"network.onnx", "network.onnx.parity.json"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_page_on_finetuning_runs(tmp_path, capsys):
    """On the pictures of the package; the runs have one epoch."""
    shutil.copytree(Path(senet.__file__).parent / "pictures", tmp_path / "runs/demo/leaves")
    run_in_turn(ROOT / "docs/finetune.md", tmp_path, capsys, finetune=["--epochs", "1"])
    made = {path.name for path in (tmp_path / "runs").iterdir()}
    assert {"leaves", "leaves.html", "leaves.csv", "scratch", "taught", "gray", "with-settings"} <= made


@pytest.mark.slow
def test_the_page_on_detection_runs(tmp_path, capsys):
    """On the pictures that it draws; the run has two epochs, after which most objects are found."""
    run_in_turn(ROOT / "docs/detection.md", tmp_path, capsys, train=["--epochs", "2"])
    assert (tmp_path / "runs/shapes.html").stat().st_size > 100_000
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert drawn == {"objects.json", *(f"{i:04}.jpg" for i in range(12))}
    assert json.loads((tmp_path / "runs/shapes/metrics.jsonl").read_text().splitlines()[-1])["ap50"] > 10


def test_every_page_with_python_is_run():
    found = {page.relative_to(ROOT).as_posix() for page in PAGES if list(code_blocks(page, "python"))}
    others = {
        "docs/tutorial.md",
        "docs/finetune.md",
        "docs/detection.md",
        "docs/deploy.md",
        "docs/extending.md",
        "docs/scale.md",
    }  # extending.md by test_extending.py; the program of scale.md is one of those that test_processes.py starts
    assert found == {*WITH_CODE, *others}


def commands(page):
    """Yield the words of every `$ senet` command of a page, continued lines joined."""
    for _, text, _ in code_blocks(page, "console"):
        yield from commands_of(text)


def commands_of(text):
    """Yield the words of every `$ senet` command of a block."""
    for line in text.replace("\\\n", " ").splitlines():
        if match := re.match(r"\$ (?:\S.* -m )?senet (.*)", line):
            words = shlex.split(match[1], comments=True)
            yield words[2:] if words[0] == "--import" else words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_have_only_options_that_exist(page):
    for words in commands(page):
        command, *rest = words
        if command != "--version":
            assert command in COMMANDS, words
            flags = {word for word in rest if re.match(r"--[a-z]", word)} - {"--help"}
            known = set(options(command))
            if command in ("train", "finetune"):  # which takes any field of the configuration
                known |= {*options("train"), *options("train", "coco_faster_rcnn"), "--resume", "--help-all"}
            if command == "evaluate":  # which has others for a run that detects
                known |= {"--detections", "--threshold", "--data.val"}
            assert flags <= known, words
