"""The hub, played by an HTTP server on this machine that answers as huggingface.co does: the client is the real one."""

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import timm
import torch
from huggingface_hub import HfApi, close_session, constants
from safetensors.torch import load_file

import senet
import senet.integrations.timm  # registers the networks
from checks import assert_one_sentence, assert_same_weights
from networks import assert_relatively_close, randomize
from senet.cli import main
from senet.data.preprocessing import Preprocessing
from senet.errors import MissingFileError, SenetError
from senet.models.base import Network

pytestmark = pytest.mark.slow  # test_hub_client.py is the quick one
NAME = "cifar_se_resnet20"


class FakeHub(ThreadingHTTPServer):
    """Answers {endpoint}/{repo}/resolve/{revision}/{file}.

    Attributes:
        folders: (repo, revision) -> the folder with its files; a revision is a branch or a commit.
        refusals: repo, or path of a POST -> the status and the X-Error-Code or X-Error-Message of the refusal.
        truncated: names of files of which the connection breaks after half.
        requested: method and path of every request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders: dict[tuple[str, str], Path] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.truncated: set[str] = set()
        self.requested: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, folder: Path, revision: str = "main") -> None:
        for name in (revision, commit_of(folder)):
            self.folders[repo, name] = folder


def commit_of(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def do_HEAD(self) -> None:
        self.server.requested.append(f"{self.command} {self.path}")
        repo, _, rest = self.path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        folder = self.server.folders.get((repo, revision))
        if repo in self.server.refusals:
            self.refuse(*self.server.refusals[repo])
        elif repo not in {repo for repo, _ in self.server.folders}:
            self.refuse(404, "RepoNotFound")
        elif folder is None:
            self.refuse(404, "RevisionNotFound")
        elif not (folder / name).is_file():
            self.refuse(404, "EntryNotFound", commit_of(folder))
        else:
            content = (folder / name).read_bytes()
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(200, {"ETag": etag, "X-Repo-Commit": commit_of(folder)}, content)

    do_GET = do_HEAD

    def do_POST(self) -> None:
        self.server.requested.append(f"POST {self.path}")
        self.rfile.read(int(self.headers["Content-Length"]))
        self.refuse(*self.server.refusals[self.path])

    def refuse(self, status: int, said: str, commit: str | None = None) -> None:
        headers = {"X-Error-Message" if " " in said else "X-Error-Code": said}
        self.answer(status, headers | ({"X-Repo-Commit": commit} if commit else {}))

    def answer(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            if Path(self.path).name in self.server.truncated:
                content, self.close_connection = content[: len(content) // 2], True
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of our own with an empty cache; neither the machine's token nor its proxies are used."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits half a minute between its attempts
    close_session()  # one that is open already has read the environment
    with FakeHub() as server:
        use_endpoint(monkeypatch, server.endpoint)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    close_session()


@contextmanager
def no_connection(how: str) -> Iterator[None]:
    """Cut the connection: by the variable that users set, or because nobody answers any more."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        if how == "HF_HUB_OFFLINE":
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
        else:
            use_endpoint(patch, f"http://127.0.0.1:{taken.getsockname()[1]}")
        close_session()
        yield
    close_session()


OFFLINE = pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "closed port"])


def a_network(num_classes: int = 3) -> Network:
    """A network of ours whose every value is its own."""
    model = senet.create_model(NAME, num_classes=num_classes, in_channels=1, se=senet.SEOptions(reduction=4))
    randomize(model)
    model.preprocessing = Preprocessing(image_size=16, resize=20, mean=(0.3,), std=(0.4,))
    model.class_names = ("a", "b", "c")[:num_classes]
    return model.eval()


def published(hub: FakeHub, folder: Path, revision: str = "main") -> Network:
    """A network that "me/net" holds."""
    model = a_network()
    senet.save_pretrained(model, folder)
    hub.add("me/net", folder, revision)
    return model


# ---- our own networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["me/net", "hf-hub:me/net", "me/net@main"])
def test_a_network_comes_back_as_it_was_saved(hub: FakeHub, tmp_path: Path, source: str) -> None:
    model = published(hub, tmp_path / "net")
    again = senet.from_pretrained(source)
    assert not again.training
    assert again.config == model.config
    assert again.preprocessing == model.preprocessing
    assert again.class_names == ("a", "b", "c")
    assert_same_weights(again, model)


def test_create_model_takes_the_weights_of_a_revision(hub: FakeHub, tmp_path: Path) -> None:
    newest = published(hub, tmp_path / "main")
    tagged = published(hub, tmp_path / "tagged", revision="v1.0")
    assert_same_weights(senet.create_model(NAME, in_channels=1, weights="me/net@v1.0"), tagged)
    assert_same_weights(senet.from_pretrained(f"me/net@{commit_of(tmp_path / 'tagged')}"), tagged)

    other = senet.create_model(NAME, num_classes=7, in_channels=1, weights="me/net")
    assert other.num_classes == 7
    assert torch.equal(other.layer3[2].conv2.weight, newest.layer3[2].conv2.weight)


def test_configuration_and_weights_are_of_one_commit(hub: FakeHub, tmp_path: Path, monkeypatch) -> None:
    """The branch moves on after the configuration was fetched."""
    model = published(hub, tmp_path / "old")
    senet.save_pretrained(a_network(2), tmp_path / "new")
    answer = Handler.answer

    def answer_and_move(self: Handler, *args: object) -> None:
        answer(self, *args)
        if self.command == "GET" and self.path.endswith("config.json"):
            hub.add("me/net", tmp_path / "new")

    monkeypatch.setattr(Handler, "answer", answer_and_move)
    assert_same_weights(senet.from_pretrained("me/net"), model)


@OFFLINE
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_what_was_fetched_once_works_offline(hub: FakeHub, tmp_path: Path, how: str, weights: str) -> None:
    model = published(hub, tmp_path / "net")
    if weights == "pytorch_model.bin":
        (tmp_path / "net" / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "net" / weights)
    assert_same_weights(senet.from_pretrained("me/net"), model)
    asked = len(hub.requested)
    with no_connection(how):
        assert_same_weights(senet.from_pretrained("me/net"), model)
    assert len(hub.requested) == asked


def test_what_moved_on_is_fetched_again_and_what_did_not_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    published(hub, tmp_path / "old")
    senet.from_pretrained("me/net")
    newer = published(hub, tmp_path / "new")
    for _ in range(2):
        assert_same_weights(senet.from_pretrained("me/net"), newer)
    fetched = [path for path in hub.requested if path.startswith("GET") and path.endswith("model.safetensors")]
    assert len(fetched) == 2


# ---- timm's networks -------------------------------------------------------------------------------------------------


def timm_published(
    hub: FakeHub, folder: Path, architecture: str, safe: bool = True, repo: str = ""
) -> tuple[str, torch.nn.Module]:
    """Publish a network of timm's with random weights, in the files that timm itself writes."""
    torch.manual_seed(0)
    theirs = timm.create_model(architecture, num_classes=5)
    randomize(theirs)
    wants = {
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "input_size": (3, 160, 160),
        "crop_pct": 0.8,
        "interpolation": "bicubic",
    }
    theirs.pretrained_cfg = theirs.default_cfg = {**theirs.pretrained_cfg, **wants}
    timm.models.save_for_hf(theirs, folder, safe_serialization=safe)
    repo = repo or f"timm/{architecture}.test_in1k"
    hub.add(repo, folder)
    return repo, theirs.eval()


@pytest.mark.parametrize(
    ("architecture", "name", "safe"),
    [("resnet18", "resnet18", True), ("resnet18", "resnet18", False), ("seresnet18", "se_resnet18", True)],
)
@torch.no_grad()
def test_weights_of_timm(hub: FakeHub, tmp_path: Path, architecture: str, name: str, safe: bool) -> None:
    repo, theirs = timm_published(hub, tmp_path / "theirs", architecture, safe)
    assert (tmp_path / "theirs" / ("model.safetensors" if safe else "pytorch_model.bin")).is_file()
    x = torch.randn(2, 3, 64, 64)
    for ours in (senet.create_model(name, weights=repo), senet.from_pretrained(f"hf-hub:{repo}")):
        assert_relatively_close(ours.eval()(x), theirs(x), 1e-5)
        assert ours.config.name == name
        assert ours.preprocessing == Preprocessing(
            image_size=160, resize=200, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bicubic"
        )


@torch.no_grad()
def test_pretrained_means_the_first_weights_that_the_card_names(hub: FakeHub, tmp_path: Path) -> None:
    first = senet.model_card("resnet18").weights[0]
    _, theirs = timm_published(hub, tmp_path / "theirs", "resnet18", repo=first)
    x = torch.randn(2, 3, 64, 64)
    for model in (
        senet.create_model("resnet18", pretrained=True),
        senet.from_pretrained("resnet18"),
        senet.create_model("resnet18", weights=first),
    ):
        assert type(model).__module__ == "senet.models.resnet"
        assert_relatively_close(model.eval()(x), theirs(x), 1e-5)
    assert senet.create_model("resnet18", 3, 1, pretrained=True).fc.weight.shape[0] == 3


@torch.no_grad()
def test_weights_that_timm_keeps_outside_the_hub(hub: FakeHub, tmp_path: Path, monkeypatch) -> None:
    theirs = timm.create_model("legacy_seresnet18")
    randomize(theirs)
    torch.save(theirs.state_dict(), tmp_path / "seresnet18.pth")
    asked = []
    monkeypatch.setattr(
        "timm.models._hub.download_cached_file", lambda url, **_: asked.append(url) or tmp_path / "seresnet18.pth"
    )
    hub.add("timm/another", tmp_path)
    model = senet.from_pretrained("se_resnet18")
    x = torch.randn(2, 3, 64, 64)
    assert_relatively_close(model(x), theirs.eval()(x), 1e-5)
    assert model.config.options == {"stem_pool": "ceil", "relu_last": True}
    assert asked == [timm.get_pretrained_cfg_value("legacy_seresnet18.in1k", "url")]
    with pytest.raises(MissingFileError, match="neither a file or folder"):
        senet.create_model("se_resnet18", weights="timm/seresnet18.nothing")


@torch.no_grad()
def test_the_plain_twin_starts_a_network_with_se(hub: FakeHub, tmp_path: Path) -> None:
    repo, theirs = timm_published(hub, tmp_path / "theirs", "resnet18")
    x = torch.randn(2, 3, 64, 64)
    assert_relatively_close(senet.create_model("se_resnet18", weights=repo).eval()(x), theirs(x), 1e-5)


@pytest.mark.parametrize(
    ("architecture", "name", "remedy"),
    [
        ("resnetaa50", "resnet50", "create timm/resnetaa50"),
        ("seresnet18", "resnet18", "create se_resnet18"),
        ("resnet18", "resnet34", "create resnet18"),
    ],
)
def test_another_network_of_timm_is_refused_by_its_name(
    hub: FakeHub, tmp_path: Path, architecture: str, name: str, remedy: str
) -> None:
    repo, _ = timm_published(hub, tmp_path / "theirs", architecture)
    with pytest.raises(SenetError) as caught:
        senet.create_model(name, weights=repo)
    assert_one_sentence(caught, repo, architecture, f"not {name}", remedy)


@torch.no_grad()
def test_a_network_that_only_timm_has_opens_as_timms(hub: FakeHub, tmp_path: Path) -> None:
    repo, theirs = timm_published(hub, tmp_path / "theirs", "resnetaa50")
    ours = senet.from_pretrained(f"hf-hub:{repo}")
    assert ours.config.name == "timm/resnetaa50"
    assert ours.preprocessing.image_size == 160
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def remove(name: str):
    return lambda hub, folder: (folder / name).unlink()


def refuse(status: int, said: str):
    return lambda hub, folder: hub.refusals.update({"me/net": (status, said)})


def nothing(hub: FakeHub, folder: Path) -> None:
    pass


TROUBLE = {
    "absent": ("me/none", nothing, ("me/none", "check the spelling")),
    "private": ("me/net", refuse(401, "RepoNotFound"), ("me/net", "hf auth login")),
    "absent revision": ("me/net@v9", nothing, ("me/net", "no revision 'v9'")),
    "gated": ("me/net", refuse(403, "GatedRepo"), ("me/net", "gated", "hf auth login")),
    "gated for the nameless": ("me/net", refuse(401, "GatedRepo"), ("me/net", "gated", "hf auth login")),
    "bad token": ("me/net", refuse(401, "Invalid credentials in Authorization header"), ("401", "hf auth login")),
    "hub in trouble": ("me/net", refuse(503, "InternalError"), ("me/net", "cannot be reached")),
    "no configuration": ("me/net", remove("config.json"), ("me/net", "no config.json")),
    "no weights": ("me/net", remove("model.safetensors"), ("neither model.safetensors nor pytorch_model.bin",)),
    "connection breaks": ("me/net", lambda hub, _: hub.truncated.add("model.safetensors"), ("me/net", "fetched")),
    "configuration of something else": (
        "me/net",
        lambda hub, folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
        ("config.json", "of bert in transformers"),
    ),
    "not an id": ("me/a--b", nothing, ("me/a--b", "could not be fetched")),
}


@pytest.mark.parametrize(("source", "make", "said"), TROUBLE.values(), ids=TROUBLE)
def test_trouble_is_one_sentence_and_changes_nothing(
    hub: FakeHub, tmp_path: Path, source: str, make, said: tuple[str, ...]
) -> None:
    published(hub, tmp_path / "net")
    make(hub, tmp_path / "net")
    model = a_network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    preprocessing = model.preprocessing
    for attempt in (
        lambda: senet.load_weights(model, source),
        lambda: senet.from_pretrained(source),
        lambda: senet.create_model(NAME, weights=source),
    ):
        with pytest.raises(SenetError) as caught:
            attempt()
        assert_one_sentence(caught, *said)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.preprocessing == preprocessing


@OFFLINE
def test_what_was_never_fetched_is_refused_offline(hub: FakeHub, tmp_path: Path, how: str) -> None:
    published(hub, tmp_path / "net")
    with no_connection(how), pytest.raises(SenetError) as caught:
        senet.from_pretrained("me/net")
    assert_one_sentence(caught, "me/net", "the hub cannot be reached", "HF_HUB_OFFLINE")
    assert not hub.requested


@OFFLINE
def test_half_a_model_in_the_cache_is_none(hub: FakeHub, tmp_path: Path, how: str) -> None:
    """A download broke after the configuration; the next one completes it."""
    model = published(hub, tmp_path / "net")
    hub.truncated.add("model.safetensors")
    with pytest.raises(SenetError):
        senet.from_pretrained("me/net")
    with no_connection(how), pytest.raises(SenetError) as caught:
        senet.from_pretrained("me/net")
    assert_one_sentence(caught, "me/net", "the hub cannot be reached")
    hub.truncated.clear()
    assert_same_weights(senet.from_pretrained("me/net"), model)


@pytest.mark.parametrize(
    "argv",
    [["evaluate", "me/none", "--data", "digits"], ["convert", NAME, "me/none", "--output", "converted"]],
    ids=["evaluate", "convert"],
)
def test_the_command_line_says_it_in_one_line(hub: FakeHub, tmp_path: Path, monkeypatch, capsys, argv) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("senet: ")
    assert "me/none" in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "converted").exists()


def test_convert_writes_what_the_hub_has(hub: FakeHub, tmp_path: Path) -> None:
    model = published(hub, tmp_path / "net")
    assert main(["convert", NAME, "me/net", "--output", str(tmp_path / "converted"), "--in-channels", "1"]) == 0
    assert_same_weights(senet.from_pretrained(tmp_path / "converted"), model)


# ---- uploading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def uploads(hub: FakeHub, tmp_path: Path, monkeypatch) -> list[tuple[str, dict[str, object]]]:
    """What is asked of the hub's client, which publishes at once what it would upload."""
    asked: list[tuple[str, dict[str, object]]] = []

    def create_repo(self: HfApi, repo_id: str, **options: object) -> str:
        asked.append(("create_repo", {"repo_id": repo_id, "token": self.token, **options}))
        return f"{hub.endpoint}/{repo_id}"

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, **options: object) -> None:
        files = {str(p.relative_to(folder_path)): p.read_bytes() for p in Path(folder_path).rglob("*") if p.is_file()}
        asked.append(("upload_folder", {"repo_id": repo_id, "token": self.token, "files": files, **options}))
        folder = tmp_path / "uploaded" / repo_id
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        hub.add(repo_id, folder)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return asked


def test_push_to_hub_uploads_a_model_folder(hub: FakeHub, uploads, tmp_path: Path) -> None:
    model = a_network()
    assert senet.push_to_hub(model, "me/mine", private=True, token="secret") == f"{hub.endpoint}/me/mine"
    (first, made), (second, sent) = uploads
    assert (first, second) == ("create_repo", "upload_folder")
    assert made == {"repo_id": "me/mine", "token": "secret", "private": True, "exist_ok": True}
    assert (sent["repo_id"], sent["token"]) == ("me/mine", "secret")

    files = sent["files"]
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    config = json.loads(files["config.json"])
    assert config["model"]["name"] == config["architecture"] == NAME
    assert config["model"]["se"]["reduction"] == 4
    assert config["num_classes"] == 3
    assert config["class_names"] == ["a", "b", "c"]
    assert config["pretrained_cfg"]["mean"] == [0.3]
    (tmp_path / "sent.safetensors").write_bytes(files["model.safetensors"])
    tensors = load_file(tmp_path / "sent.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in model.state_dict().items())


def test_from_pretrained_and_timm_read_what_was_pushed(uploads) -> None:
    model = a_network()
    model.push_to_hub("me/mine", metrics={"top1": 70.5}, commit_message="the first")
    assert uploads[0][1]["private"] is None  # as the account's settings say
    assert uploads[1][1]["commit_message"] == "the first"
    card = uploads[1][1]["files"]["README.md"].decode()
    for said in ("library_name: senet", "- squeeze-and-excitation", "| top1 | 70.5 |", "senet.from_pretrained("):
        assert said in card
    again = senet.from_pretrained("me/mine")
    assert (again.config, again.preprocessing) == (model.config, model.preprocessing)
    assert again.class_names == ("a", "b", "c")
    assert_same_weights(again, model)

    through_timm = timm.create_model("hf-hub:me/mine", pretrained=True)
    assert_same_weights(through_timm, model)
    assert timm.data.resolve_data_config(model=through_timm)["mean"] == (0.3,)


def test_a_detector_is_pushed_and_opened(uploads) -> None:
    small = {"min_size": 32, "max_size": 48, "pyramid_channels": 8, "box_features": 16}
    model = senet.faster_rcnn("cifar_se_resnet20", num_classes=2, frozen_stages=0, norm="train", **small).eval()
    model.class_names = ("disk", "square")
    model.push_to_hub("me/boxes")
    assert "pipeline_tag: object-detection" in uploads[1][1]["files"]["README.md"].decode()
    again = senet.from_pretrained("me/boxes")
    assert (again.config, again.class_names) == (model.config, model.class_names)
    assert_same_weights(again, model)


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (401, "Invalid username or password.", "hf auth login"),  # what the hub says without a token
        (401, "Invalid credentials in Authorization header", "hf auth login"),
        (403, "You don't have the rights to create a model under the namespace", "rights to create a model"),
        (500, "Internal Error", "500"),
    ],
)
def test_a_refused_upload_is_one_sentence(hub: FakeHub, status: int, message: str, said: str) -> None:
    hub.refusals["/api/repos/create"] = (status, message)
    with pytest.raises(SenetError) as caught:
        senet.push_to_hub(a_network(), "me/mine")
    assert_one_sentence(caught, "me/mine", said)
    assert hub.requested


@OFFLINE
def test_an_upload_without_connection_is_one_sentence(hub: FakeHub, how: str) -> None:
    with no_connection(how), pytest.raises(SenetError) as caught:
        senet.push_to_hub(a_network(), "me/mine")
    assert_one_sentence(caught, "me/mine")
    assert not hub.requested
