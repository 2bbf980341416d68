"""What a release needs: the version, the policy on old names, the citation, the tree of files, type annotations."""

import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

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
