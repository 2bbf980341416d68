"""The hub, played by a server on this machine: what is fetched, from where, and every way in which it can fail."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import save_file

from networks import assert_relatively_close, on_cpu_with_random_weights
from senet.block import SEOptions
from senet.cli import main
from senet.errors import SenetError
from senet.models.folder import from_pretrained, load_model, push_to_hub, save_pretrained
from senet.models.hub import is_hub_id
from senet.models.registry import create_model
from senet.models.weights import load_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answers `/{owner}/{name}/resolve/{revision}/{file}` from a folder, with the headers of the real one."""

    root: Path
    asked: list[str]

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        owner, name, _, revision, file = self.path.lstrip("/").split("?")[0].split("/", 4)
        type(self).asked.append(f"{owner}/{name}@{revision}/{file}")
        repository = self.root / owner / name
        if owner == "gated":
            return self.refuse(403, "GatedRepo")
        if not repository.is_dir():
            return self.refuse(404, "RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        path = repository / file
        if not path.is_file():
            return self.refuse(404, "EntryNotFound")
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{len(content)}-{file}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
        return None

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "refused")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


def point_to(monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def served(tmp_path: Path, monkeypatch):
    """The folder whose subfolders OWNER/NAME are the models on the hub; the cache is empty."""
    handler = type("Handler", (Hub,), {"root": tmp_path / "hub", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    point_to(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler.root
    server.shutdown()
    server.server_close()


def trained(**options):
    torch.manual_seed(0)
    model = create_model("cifar_se_resnet20", num_classes=3, **options)
    model.class_names = ("one", "two", "three")
    return model.eval()


def assert_refused(source, *said):
    """One sentence, from every function that takes a hub id, and the model stays as it was."""
    model = create_model("cifar_se_resnet20")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for load in (
        from_pretrained,
        load_model,
        lambda s: create_model("resnet18", weights=s),
        lambda s: load_weights(model, s),
    ):
        with pytest.raises(SenetError) as caught:
            load(source)
        for words in said:
            assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "http://" not in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("me/net", True),
        ("timm/seresnet50.ra2_in1k", True),
        ("hf-hub:me/net", True),
        ("hf_hub:me/net", True),
        ("me/net@v1", True),
        ("net", False),
        ("me/net/more", False),
        ("runs/net.pth", False),
        ("runs/model.safetensors", False),
        ("../me/net", False),
        ("/me/net", False),
        ("me/", False),
    ],
)
def test_what_looks_like_a_hub_id(source, expected):
    assert is_hub_id(source) is expected


@pytest.mark.parametrize("source", ["me/net", "hf-hub:me/net", "me/net@v1"])
def test_our_own_models(served, source):
    model = trained(se=SEOptions(reduction=4, gate="tanh"))
    save_pretrained(model, served / "me" / "net")
    for again in (from_pretrained(source), load_model(source), create_model("cifar_se_resnet20", weights=source)):
        assert again.config == model.config
        assert again.class_names == model.class_names
        x = torch.randn(1, 3, 32, 32)
        assert torch.equal(again(x), model(x))


def timm_repository(folder, architecture, *, file="model.safetensors", **cfg):
    """A model as timm pushes it: config.json with its pretrained_cfg, and the weights."""
    torch.manual_seed(0)
    theirs = on_cpu_with_random_weights(lambda: timm.create_model(architecture, pretrained=False))
    folder.mkdir(parents=True)
    described = {"input_size": [3, 160, 160], "crop_pct": 0.95, "interpolation": "bicubic"}
    described |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], **cfg}
    text = {"architecture": architecture, "num_classes": 1000, "num_features": 512, "pretrained_cfg": described}
    (folder / "config.json").write_text(json.dumps(text))
    if file.endswith("safetensors"):
        save_file(theirs.state_dict(), folder / file)
    else:
        torch.save(theirs.state_dict(), folder / file)
    return theirs


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@torch.no_grad()
def test_timms_models(served, file):
    theirs = timm_repository(served / "timm" / "seresnet18.x_in1k", "seresnet18", file=file)
    for ours in (
        create_model("se_resnet18", weights="timm/seresnet18.x_in1k"),
        from_pretrained("timm/seresnet18.x_in1k"),
    ):
        x = torch.randn(2, 3, 64, 64)
        assert_relatively_close(ours(x), theirs(x), 1e-5)
        assert (ours.preprocessing.image_size, ours.preprocessing.resize) == (160, 168)
        assert ours.preprocessing.interpolation == "bicubic"
        assert ours.preprocessing.mean == (0.485, 0.456, 0.406)


def test_an_architecture_with_our_keys_that_computes_something_else_is_refused(served):
    timm_repository(served / "timm" / "resnetaa50.x", "resnetaa50")
    with pytest.raises(SenetError, match="holds resnetaa50, not resnet50: none of ours"):
        create_model("resnet50", weights="timm/resnetaa50.x")
    with pytest.raises(SenetError, match="holds resnetaa50, which is not one of our networks"):
        from_pretrained("timm/resnetaa50.x")
    timm_repository(served / "timm" / "resnet18.x", "resnet18")
    with pytest.raises(SenetError, match="holds resnet18, not resnet34: create resnet18"):
        create_model("resnet34", weights="timm/resnet18.x")


def test_what_the_hub_refuses(served):
    assert_refused("me/nothing", "me/nothing", "nor a public model of this id on the hub")
    save_pretrained(trained(), served / "me" / "net")
    assert_refused("me/net@v2", "me/net on the hub has no revision 'v2'")
    assert_refused("gated/net", "gated/net on the hub is gated")
    (served / "me" / "net" / "model.safetensors").unlink()
    assert_refused("me/net", "me/net on the hub holds neither model.safetensors nor pytorch_model.bin")
    (served / "me" / "net" / "config.json").unlink()
    assert_refused("me/net", "me/net on the hub has no config.json")


def test_a_hub_that_cannot_be_reached(served, monkeypatch):
    save_pretrained(trained(), served / "me" / "net")
    from_pretrained("me/net")
    point_to(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts
    assert_refused("me/other", "me/other is no file or folder, and the hub cannot be reached")
    assert from_pretrained("me/net").class_names == ("one", "two", "three")  # from the cache


def test_offline(served, monkeypatch):
    save_pretrained(trained(), served / "me" / "net")
    from_pretrained("me/net")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_refused("me/other", "HF_HUB_OFFLINE")
    assert from_pretrained("me/net").num_classes == 3


def test_the_command_line_says_one_sentence(served, tmp_path, capsys):
    for argv in (["evaluate", "me/none"], ["convert", "resnet18", "me/none", str(tmp_path / "out")]):
        assert main(argv) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("senet: there is neither a file or folder me/none")
    assert not (tmp_path / "out").exists()


# ---- uploading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def uploads(monkeypatch, served):
    """Stand in for the calls that change the hub: uploads go to the folder that is served."""
    calls = []

    def create_repo(self, repo_id, *, private, exist_ok):
        calls.append((repo_id, private, exist_ok, self.token))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path):
        target = served / repo_id
        target.mkdir(parents=True)
        for file in Path(folder_path).iterdir():
            (target / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    return calls


def test_what_is_pushed_is_what_is_read(served, uploads):
    model = trained()
    assert push_to_hub(model, "me/pushed", private=True, token="secret") == "https://huggingface.co/me/pushed"
    assert uploads == [("me/pushed", True, True, "secret")]
    assert {file.name for file in (served / "me" / "pushed").iterdir()} == {"config.json", "model.safetensors"}
    again = from_pretrained("me/pushed")
    assert again.config == model.config
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())


def test_pushing_that_fails_says_one_sentence(monkeypatch, uploads):
    def unauthorised(self, *arguments, **options):
        raise HfHubHTTPError("401 Unauthorized", response=SimpleNamespace(status_code=401, headers={}, request=None))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", unauthorised)
    with pytest.raises(SenetError, match=r"me/pushed.*run `hf auth login`"):
        push_to_hub(trained(), "me/pushed")

    def unreachable(self, *arguments, **options):
        raise ConnectionError("refused\nby the network")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", unreachable)
    with pytest.raises(
        SenetError, match=r"me/pushed could not be uploaded to the hub \(refused\); check the connection"
    ):
        push_to_hub(trained(), "me/pushed")
    with pytest.raises(SenetError, match="Linear cannot be saved"):
        push_to_hub(torch.nn.Linear(1, 1), "me/pushed")
