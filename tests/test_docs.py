import re
from dataclasses import fields
from itertools import chain
from pathlib import Path

import pytest

import senet
from fuzz.commands import SLOW, options
from pages import PAGES
from senet.cli import COMMANDS
from senet.paper.figures import DETECTION_ROWS
from senet.paper.rows import PAPER_ROWS
from senet.recipes import get_recipe
from tiers import slow_except

DOCS = Path(__file__).parent.parent / "docs"


WRITTEN = [
    *(f"docs/{name}.md" for name in ("ablation", "deploy", "insertion", "networks", "recipes")),
    *(f"docs/{name}.md" for name in ("reliability", "results", "scale", "speed")),
    "README.md",
    "CONTRIBUTING.md",
]


@pytest.mark.parametrize("name", slow_except([name for name in WRITTEN if "networks" not in name], WRITTEN))
def test_written_pages_are_current(name: str) -> None:
    pages = {path.relative_to(DOCS.parent).as_posix(): page for path, page in PAGES.items()}
    assert set(pages) == set(WRITTEN)
    assert (DOCS.parent / name).read_text() == pages[name](), "run `make docs`"


def test_the_page_of_recipes_has_every_row() -> None:
    text, _, modern = (DOCS / "recipes.md").read_text().partition("\n## ImageNet as it is trained today\n")
    assert re.findall(r"^\| `(imagenet_a\d)` \| (\S+) \| (\d+) \|", modern, re.MULTILINE) == [
        ("imagenet_a1", "80.4", "600"),
        ("imagenet_a2", "79.8", "300"),
        ("imagenet_a3", "78.1", "100"),
    ]
    tables = re.findall(r"^## Table (\d+)$", text, re.MULTILINE)
    assert list(map(int, tables)) == [2, 3, 4, 5, 6, 7, 9, *range(10, 17)]
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in text.splitlines() if "senet train" in line and line[0] == "|"]
    detecting = [row for row in rows if "coco_faster_rcnn" in row[2]]
    assert [row[:2] for row in detecting] == [[row.label, f"{row.ap50} / {row.ap}"] for row in DETECTION_ROWS]
    rows = [row for row in rows if row not in detecting]
    assert [row[0] for row in rows] == [row.printed.label for row in PAPER_ROWS]
    assert [row[2] for row in rows] == [f"`{row.command()}`" for row in PAPER_ROWS]
    assert {"23.29 / 6.62", "25.3 / 7.7", "4.27"} <= {row[1] for row in rows}  # digits as printed


def test_what_the_page_of_troubles_advises_exists() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    flags, commands = set(re.findall(r"--[a-z][\w.-]+", text)), set(re.findall(r"`senet ([a-z]+)", text))
    known = set(chain(*(options(command) for command in COMMANDS))) | {"--count", *SLOW}
    assert len(flags) >= 10
    assert flags <= known
    assert commands <= set(COMMANDS)
    for name in re.findall(r"senet\.(\w+)\(", text):
        assert name in senet.__all__
    for name, field in re.findall(r"`--(data|compute)\.([\w-]+)", text):
        assert field.replace("-", "_") in {f.name for f in fields(getattr(get_recipe("digits"), name))}


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"
