"""What this library makes of what the hub's client returns and raises; test_hub.py asks the client itself."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from huggingface_hub import errors
from torch import nn

import senet
from checks import assert_same_weights
from networks import assert_relatively_close, fresh_on_meta, randomize
from senet.cli import main
from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.models.base import Network
from senet.weights.hub import is_hub_id

NAME = "cifar_se_resnet20"


class StubHub:
    """Stands for `hf_hub_download` and `HfApi`.

    Attributes:
        folders: (repo, revision) -> a folder called like its commit, as in the client's cache.
        raises: file -> what asking for it raises, or an upload, if it is "upload".
        asked: (repo, file, revision) of every request so far.
    """

    def __init__(self) -> None:
        self.folders: dict[tuple[str, str | None], Path] = {}
        self.raises: dict[str, Exception] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.uploaded: dict[str, object] = {}

    def add(self, repo: str, folder: Path, revision: str | None = None) -> None:
        for name in (revision, folder.name):
            self.folders[repo, name] = folder

    def download(self, repo: str, name: str, *, revision: str | None = None, **options: object) -> str:
        self.asked.append((repo, name, revision))
        if name in self.raises:
            raise self.raises[name]
        file = self.folders[repo, revision] / name
        if not file.exists():
            raise errors.EntryNotFoundError(f"404: no {name}")
        return str(file)

    def api(self, *, token: str | None = None) -> SimpleNamespace:
        def create_repo(repo: str, **options: object) -> str:
            if "upload" in self.raises:
                raise self.raises["upload"]
            self.uploaded |= {"repo": repo, "token": token, "private": options["private"]}
            return f"https://hub/{repo}"

        def upload_folder(*, folder_path: Path, **options: object) -> None:
            self.uploaded["files"] = {path.name for path in Path(folder_path).iterdir()}

        return SimpleNamespace(create_repo=create_repo, upload_folder=upload_folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    stub = StubHub()
    monkeypatch.setattr("senet.weights.hub.hf_hub_download", stub.download)
    monkeypatch.setattr("senet.weights.hub.HfApi", stub.api)
    return stub


def a_network(num_classes: int = 3) -> Network:
    """A network whose every value is its own."""
    model = senet.create_model(NAME, num_classes=num_classes, in_channels=1, se=senet.SEOptions(reduction=4))
    randomize(model)
    model.preprocessing = Preprocessing(image_size=16, resize=20, mean=(0.3,), std=(0.4,))
    model.class_names = ("a", "b", "c")[:num_classes]
    return model.eval()


def published(hub: StubHub, folder: Path, revision: str | None = None) -> Network:
    """A network that "me/net" holds."""
    model = a_network()
    senet.save_pretrained(model, folder)
    hub.add("me/net", folder, revision)
    return model


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("me/net", True),
        ("hf-hub:me/net", True),
        ("hf_hub:me/net@v1.0", True),
        ("timm/seresnet50.ra2_in1k", True),
        ("me/net@feature/x", True),
        ("net", False),
        ("/me/net", False),
        ("a/b/c", False),
        ("me/net.pth", False),
        ("runs/net.safetensors", False),
        ("~/net", False),
        ("./net", False),
        ("../net", False),
        ("me/.net", False),
        ("me/net@", False),
        ("https://huggingface.co/me/net", False),
    ],
)
def test_hub_ids(source: str, expected: bool) -> None:
    assert is_hub_id(source) is expected


def test_a_network_comes_back_as_it_was_saved(hub: StubHub, tmp_path: Path) -> None:
    model = published(hub, tmp_path / "commit")
    again = senet.from_pretrained("hf-hub:me/net")
    assert (again.config, again.preprocessing, again.class_names) == (
        model.config,
        model.preprocessing,
        ("a", "b", "c"),
    )
    assert_same_weights(again, model)


def test_the_weights_are_asked_of_the_commit_of_the_configuration(hub: StubHub, tmp_path: Path) -> None:
    """The branch may move on between the two."""
    published(hub, tmp_path / "newest")
    tagged = published(hub, tmp_path / "tagged", revision="v1.0")
    assert_same_weights(senet.create_model(NAME, in_channels=1, weights="me/net@v1.0"), tagged)
    assert hub.asked == [("me/net", "config.json", "v1.0"), ("me/net", "model.safetensors", "tagged")]


def test_older_repositories_hold_a_pickle(hub: StubHub, tmp_path: Path) -> None:
    saved, model = published(hub, tmp_path / "commit"), a_network()
    (tmp_path / "commit" / "model.safetensors").unlink()
    torch.save(saved.state_dict(), tmp_path / "commit" / "pytorch_model.bin")
    report = senet.load_weights(model, "me/net")
    assert (report.source, report.layout) == ("me/net", "senet")
    assert_same_weights(model, saved)


def test_a_folder_of_the_name_goes_before_the_hub(hub: StubHub, tmp_path: Path, monkeypatch) -> None:
    local = a_network()
    senet.save_pretrained(local, tmp_path / "me" / "net")
    monkeypatch.chdir(tmp_path)
    assert_same_weights(senet.from_pretrained("me/net"), local)
    assert not hub.asked


@torch.no_grad()
def test_weights_of_timm(hub: StubHub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=5)
    randomize(theirs)
    wants = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "input_size": (3, 160, 160), "crop_pct": 0.8}
    theirs.pretrained_cfg = theirs.default_cfg = {**theirs.pretrained_cfg, **wants, "interpolation": "bicubic"}
    timm.models.save_for_hf(theirs, tmp_path / "commit", safe_serialization=True)
    hub.add("timm/resnet18.test_in1k", tmp_path / "commit")
    x = torch.randn(2, 3, 64, 64)
    model = senet.create_model("resnet18", weights="timm/resnet18.test_in1k").eval()
    assert_relatively_close(model(x), theirs.eval()(x), 1e-5)
    assert model.preprocessing == Preprocessing(
        image_size=160, resize=200, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bicubic"
    )
    with pytest.raises(SenetError, match=r"not resnet34.*create resnet18"):
        senet.create_model("resnet34", weights="timm/resnet18.test_in1k")


def test_only_its_name_tells_resnetaa50_from_resnet50() -> None:
    """It blurs before it strides, which no key or shape says."""
    with torch.device("meta"):
        theirs = timm.create_model("resnetaa50").state_dict()
    ours = fresh_on_meta("resnet50").state_dict()
    assert {key: tensor.shape for key, tensor in theirs.items()} == {key: t.shape for key, t in ours.items()}


def refusal(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    answer = SimpleNamespace(status_code=status, headers={}, request=SimpleNamespace(url="https://hub", method="GET"))
    return kind(f"{status} Client Error", response=answer)


CONFIG, WEIGHTS = "config.json", "model.safetensors"
TROUBLE = {
    "absent or private": (CONFIG, refusal(errors.RepositoryNotFoundError, 401), ("spelling", "hf auth login")),
    "absent revision": (CONFIG, refusal(errors.RevisionNotFoundError, 404), ("no revision 'v9'",)),
    "gated": (CONFIG, refusal(errors.GatedRepoError, 403), ("gated", "hf auth login")),
    "bad token": (CONFIG, refusal(errors.HfHubHTTPError, 401), ("401", "hf auth login")),
    "hub in trouble": (CONFIG, refusal(errors.HfHubHTTPError, 503), ("503", "try again later")),
    "not an id": (CONFIG, errors.HFValidationError("bad id"), ("could not be fetched", "owner/name")),
    "no configuration": (CONFIG, errors.EntryNotFoundError("404"), ("no config.json",)),
    "offline": (CONFIG, errors.LocalEntryNotFoundError("offline"), ("cannot be reached", "HF_HUB_OFFLINE")),
    "offline, half in the cache": (WEIGHTS, errors.LocalEntryNotFoundError("offline"), ("cannot be reached",)),
    "connection breaks": (WEIGHTS, OSError("Consistency check failed\nat 50 %"), ("Consistency check failed",)),
}


@pytest.mark.parametrize(("name", "error", "said"), TROUBLE.values(), ids=TROUBLE)
def test_trouble_is_one_sentence_and_changes_nothing(
    hub: StubHub, tmp_path: Path, name: str, error: Exception, said: tuple[str, ...]
) -> None:
    published(hub, tmp_path / "commit", revision="v9")
    hub.raises = {name: error, "pytorch_model.bin": error}
    model = a_network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for attempt in (
        lambda: senet.load_weights(model, "me/net@v9"),
        lambda: senet.from_pretrained("me/net@v9"),
        lambda: senet.create_model(NAME, weights="me/net@v9"),
    ):
        with pytest.raises(SenetError) as caught:
            attempt()
        for words in ("me/net", *said):
            assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_repository_without_weights(hub: StubHub, tmp_path: Path) -> None:
    published(hub, tmp_path / "commit")
    (tmp_path / "commit" / WEIGHTS).unlink()
    with pytest.raises(SenetError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        senet.from_pretrained("me/net")


def test_the_command_line_says_it_in_one_line(hub: StubHub, tmp_path: Path, capsys) -> None:
    hub.raises[CONFIG] = refusal(errors.RepositoryNotFoundError, 404)
    assert main(["record", "me/none", "--data", "digits", "--output", str(tmp_path / "gates.safetensors")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("senet: ")
    assert "me/none" in printed.err
    assert printed.err.count("\n") == 1


def test_a_model_folder_is_uploaded(hub: StubHub) -> None:
    assert senet.push_to_hub(a_network(), "me/mine", private=True, token="secret") == "https://hub/me/mine"
    files = hub.uploaded.pop("files")
    assert files >= {"config.json", "model.safetensors"}
    assert hub.uploaded == {"repo": "me/mine", "token": "secret", "private": True}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refusal(errors.HfHubHTTPError, 403), "hf auth login"),
        (refusal(errors.HfHubHTTPError, 500), "500"),
        (errors.HFValidationError("bad id"), "owner/name"),
        (ConnectionError("no route"), "no route"),
    ],
)
def test_a_refused_upload_is_one_sentence(hub: StubHub, error: Exception, said: str) -> None:
    hub.raises["upload"] = error
    with pytest.raises(SenetError, match=f"me/mine.*{said}") as caught:
        senet.push_to_hub(a_network(), "me/mine")
    assert "\n" not in str(caught.value)


def test_only_networks_of_this_library_are_uploaded(hub: StubHub) -> None:
    with pytest.raises(SenetError, match="Linear cannot be saved"):
        senet.push_to_hub(nn.Linear(2, 2), "me/mine")
    assert not hub.uploaded


@pytest.mark.network
@torch.no_grad()
def test_huggingface_has_the_weights_of_timm() -> None:
    """The one test that asks the hub itself."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 96, 96)
    theirs = timm.create_model("resnet18.tv_in1k", pretrained=True).eval()
    ours = senet.create_model("resnet18", weights="timm/resnet18.tv_in1k").eval()
    assert_relatively_close(ours(x), theirs(x), 1e-5)
