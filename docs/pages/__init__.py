"""Write the pages of tables.

docs/networks.md: every network's costs; docs/recipes.md: every row of the paper's tables; docs/speed.md,
docs/insertion.md, docs/ablation.md, the tables of CIFAR-10, fine-tuning and detection in docs/results.md, of exports in
docs/deploy.md, of training in several processes in docs/scale.md, of what is lost in docs/reliability.md, and a table
of README.md: what the benchmarks measured. CONTRIBUTING.md: its tree of files.

Command: make docs
"""

from collections.abc import Callable
from pathlib import Path

from pages.ablation import ablation_page
from pages.cifar import cifar_tables
from pages.detection import detection_tables
from pages.exports import deploy_tables
from pages.faults import fault_tables
from pages.finetuning import finetuning_tables
from pages.fuzzing import fuzzing_tables, kept_copy
from pages.insertion import insertion_page
from pages.networks import networks_page
from pages.recipes import recipes_page
from pages.scaling import efficiency_table, model_table
from pages.speed import readme_table, speed_page
from pages.tree import tree

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
RESULTS, DEPLOY = DOCS / "results.md", DOCS / "deploy.md"
SCALE, RELIABILITY = DOCS / "scale.md", DOCS / "reliability.md"


def filled(page: str, part: str, text: str) -> str:
    """Return a page with the text between its two marks of a part replaced."""
    start, end = f"<!-- {part}: written by make docs -->\n", f"<!-- end of {part} -->\n"
    before, rest = page.split(start)
    return before + start + text + end + rest.split(end)[1]


def readme() -> str:
    """Return README.md with its table of speed."""
    return filled(README.read_text(), "speed", readme_table())


def results() -> str:
    """Return docs/results.md with its tables."""
    text = RESULTS.read_text()
    for part, tables in (("cifar", cifar_tables), ("finetuning", finetuning_tables), ("detection", detection_tables)):
        text = filled(text, part, tables())
    return text


def deploy() -> str:
    """Return docs/deploy.md with its tables of exports."""
    return filled(DEPLOY.read_text(), "exports", deploy_tables())


def scale() -> str:
    """Return docs/scale.md with its tables of training in several processes."""
    text = SCALE.read_text()
    for part, tables in (("efficiency", efficiency_table()), ("model", model_table())):
        text = filled(text, part, tables)
    return text


def reliability() -> str:
    """Return docs/reliability.md with its tables of what is lost, of damaged files and of kept copies."""
    text = RELIABILITY.read_text()
    for part, tables in (("reliability", fault_tables()), ("fuzzing", fuzzing_tables()), ("kept copies", kept_copy())):
        text = filled(text, part, tables)
    return text


def contributing() -> str:
    """Return CONTRIBUTING.md with its tree of files."""
    return filled(CONTRIBUTING.read_text(), "tree", tree())


PAGES: dict[Path, Callable[[], str]] = {
    DOCS / "networks.md": networks_page,
    DOCS / "recipes.md": recipes_page,
    DOCS / "speed.md": speed_page,
    DOCS / "insertion.md": insertion_page,
    DOCS / "ablation.md": ablation_page,
    RESULTS: results,
    DEPLOY: deploy,
    SCALE: scale,
    RELIABILITY: reliability,
    README: readme,
    CONTRIBUTING: contributing,
}
"""The text of each file that is written, not edited."""
