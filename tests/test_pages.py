"""The code in README and docs: every block of Python runs, every command has only options that exist.

A block that cannot run here (it needs the network, or a file of the reader's) has a comment before it:
`<!-- not run: why -->`. Blocks of a page share their names, from top to bottom.
"""

import contextlib
import re
import shlex
from pathlib import Path

import pytest

from fuzz.commands import options
from senet.cli import COMMANDS

ROOT = Path(__file__).parent.parent
WITH_CODE = ["README.md", *(f"docs/{name}.md" for name in ("analysis", "guide", "timm", "weights"))]
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


def test_every_page_with_python_is_run():
    found = {page.relative_to(ROOT).as_posix() for page in PAGES if list(code_blocks(page, "python"))}
    assert found == {*WITH_CODE, "docs/tutorial.md", "docs/extending.md"}  # the last by test_extending.py


def commands(page):
    """Yield the words of every `$ senet` command of a page, continued lines joined."""
    for _, text, _ in code_blocks(page, "console"):
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
            known = {*options(command), "--resume"} if command == "train" else set(options(command))
            assert flags <= known, words
