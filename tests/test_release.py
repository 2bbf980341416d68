"""What a release needs: the version, the policy on old names, the citation, the tree of files, type annotations."""

import re
import tomllib
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import senet
from senet import deprecated
from senet.deprecated import current_name
from senet.registry import Registry

ROOT = Path(__file__).parent.parent


def numbers(text):
    """Return the first two numbers of a version."""
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


def test_the_version_is_the_one_that_is_installed(monkeypatch):
    assert senet.__version__ == version("senet")

    def nowhere(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", nowhere)
    assert senet.__version__ == "unknown"


def test_an_old_name_gives_the_new_object_and_a_warning(monkeypatch):
    monkeypatch.setitem(deprecated.NAMES, "count_costs", ("cost", "0.3"))
    with pytest.warns(
        FutureWarning, match=r"^count_costs is now called cost; the old name works until senet 0\.3$"
    ) as seen:
        assert senet.count_costs is senet.cost
    assert seen[0].filename == __file__
    assert "count_costs" not in dir(senet)


def test_a_new_name_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert current_name("cost", {"count_costs": ("cost", "0.3")}) == "cost"


def test_an_old_name_of_something_registered_gives_it_too(monkeypatch):
    table = Registry("network", {"new_net": 1})
    monkeypatch.setitem(deprecated.REGISTERED["network"], "old_net", ("new_net", "0.3"))
    with pytest.warns(FutureWarning, match="old_net is now called new_net") as seen:
        assert table["old_net"] == 1
    assert seen[0].filename == __file__
    assert list(table) == ["new_net"]


def test_old_names_lead_to_names_that_exist_and_go_when_it_was_promised():
    for old, (new, removed_in) in deprecated.NAMES.items():
        assert new in senet.__all__
        assert old not in senet.__all__
        assert numbers(removed_in) > numbers(senet.__version__), f"{old} was to go with {removed_in}"


def test_the_citation_has_what_its_schema_requires_and_the_version_of_the_changelog():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    released = re.search(r"^## (\d[\d.]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released is not None
    assert str(citation["version"]) == released[1]


def test_the_package_is_typed():
    assert files("senet").joinpath("py.typed").is_file()


def asked():
    """Return all that pyproject.toml asks for, but for the tools of a release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    in_all = re.search(r"\[(.*)\]", extras["all"][0])[1].split(",")
    words = [*project["project"]["dependencies"], *(word for extra in in_all for word in extras[extra])]
    return [
        Requirement(word) for word in words + [w for name in ("test", "lint", "docs", "build") for w in groups[name]]
    ]


def pinned(name):
    """Return the versions in a file of requirements/, by package; each has a hash of every file."""
    entries = re.split(r"\n(?=[a-z])", (ROOT / "requirements" / name).read_text().partition("\n")[2])
    found = {}
    for entry in entries:
        if match := re.match(r"([a-z0-9-]+)(?:\[.*?\])?==([^ ;\n]+)", entry):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), match[1]
            found[match[1]] = match[2]
    return found


def test_what_is_tested_is_pinned_with_hashes_and_is_what_pyproject_asks_for():
    tested, oldest = pinned("tested.txt"), pinned("oldest.txt")
    for requirement in asked():
        name = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(tested[name]), f"{name}: run `make requirements`"
        (bound,) = requirement.specifier
        assert requirement.specifier.contains(oldest[name])
        first = numbers(bound.version)  # "0.6" may be 0.6.1, where 0.6.0 has never been
        assert numbers(oldest[name])[: len(first)] == first, f"{name}: run `make requirements`"
    assert pinned("runtime.txt").items() <= tested.items()
    assert pinned("release.txt").keys() >= {"uv", "build", "cyclonedx-bom", "pip-audit", "hatchling"}
