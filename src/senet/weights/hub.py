"""The Hugging Face hub: fetching a model folder from it, and uploading one."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's or httpx2's, by the version
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from senet.errors import HubError, MissingFileError, SenetError

HUB_ID = re.compile(r"^(hf[-_]hub:)?(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?$")
FILES = (".safetensors", ".pt", ".pth", ".th", ".pkl", ".bin", ".ckpt", ".tar", ".caffemodel")
EXPORTED: Mapping[str, str] = MappingProxyType(
    {
        ".onnx": "onnx",
        ".xml": "openvino",
        ".pt2": "torch_export",
        ".pte": "executorch",
        ".mlpackage": "coreml",
    }
)
"""How files of exported networks end, and the format that each is of, see `senet.deployment.targets`."""
LIBRARIES = ("timm", "torchvision")
"""Whose networks are named as if they were owners on the hub, whatever folders are here."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def is_hub_id(source: str) -> bool:
    """Return whether `source` has the form of a hub id: "owner/name", "hf-hub:owner/name", "owner/name@revision".

    What ends like a file of weights or an exported network, starts with a dot, or begins with a folder that is here, is
    a path: "runs/mine" where there are runs.
    """
    if HUB_ID.match(source) is None or Path(source).suffix in (*FILES, *EXPORTED):
        return False
    owner = source.partition("/")[0]
    return owner in LIBRARIES or not os.path.isdir(owner)  # noqa: PTH112  # Path raises for a name that is too long


@dataclass(frozen=True, kw_only=True)
class Download:
    """How to fetch from the hub, as `huggingface_hub.hf_hub_download` takes it.

    Args:
        revision: a branch, tag or commit; None for that of the id, or the newest.
        token: a token; True for the one of `hf auth login`, False for none; None for the one
            of `hf auth login` if there is one.
        cache_dir: the folder of the cache; None for the client's.
        local_files_only: take what is in the cache and ask no server.
        force_download: fetch what is in the cache as well.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    def changed(self) -> str:
        """Return the name of the first value that is not its default."""
        return next(each.name for each in fields(self) if getattr(self, each.name) != each.default)

    def fetch(self, repo: str, name: str, revision: str | None) -> Path:
        """Download a file of a repository, or find it in the cache."""
        options: dict[str, Any] = {
            "token": self.token,
            "cache_dir": self.cache_dir,
            "local_files_only": self.local_files_only,
            "force_download": self.force_download,
        }
        return Path(hf_hub_download(repo, name, revision=revision, **options))


def fetch_model_folder(source: str, download: Download) -> Path:
    """Download config.json and the weights of a model on the hub, or find them in the local cache.

    Args:
        source: a hub id, see `is_hub_id`.
        download: how.

    Returns:
        The folder of the cache that holds both.

    Raises:
        SenetError: no such model or revision, no access, or no weights in it.
        HubError: the hub cannot be reached, or refuses.
    """
    match = HUB_ID.match(source)
    assert match is not None
    repo, revision = match["repo"], match["revision"] or download.revision
    if match["revision"] and download.revision not in (None, match["revision"]):
        raise SenetError(f"revision is {download.revision!r}, but {source} names another; leave one out")
    try:
        config = download.fetch(repo, "config.json", revision)
        commit = config.parent.name  # the folder of the cache is called so; a branch may move in between
        weights = fetch_weights(repo, commit, download)
    except GatedRepoError as error:
        raise HubError(f"{source} on the hub is gated; ask for access there and run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise MissingFileError(
            f"there is neither a file or folder {source} nor a public model of this id on the hub; "
            "check the spelling, or run `hf auth login` for a private one"
        ) from error
    except RevisionNotFoundError as error:
        raise SenetError(f"{repo} on the hub has no revision {revision!r}; leave it out for the newest") from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{source} is no file or folder, and the hub cannot be reached to look for it there; "
            "check the connection, or HF_HUB_OFFLINE"
        ) from error
    except EntryNotFoundError as error:
        raise SenetError(f"{source} on the hub has no config.json; name the repository of a model") from error
    except (HFValidationError, HTTPError, OSError) as error:
        raise HubError(f"{source} could not be fetched from the hub ({said(error)}); {remedy(error)}") from error
    if weights is None:
        raise SenetError(f"{source} on the hub holds neither {' nor '.join(WEIGHTS)}; name another model")
    return weights.parent


def fetch_weights(repo: str, commit: str, download: Download) -> Path | None:
    """Download the weights of a commit, or find them in the cache; None if it has none."""
    unreachable = None
    for name in WEIGHTS:
        try:
            return download.fetch(repo, name, commit)
        except LocalEntryNotFoundError as error:
            unreachable = error
        except EntryNotFoundError:
            continue
    if unreachable is not None:
        raise unreachable
    return None


@dataclass(frozen=True, kw_only=True)
class Upload:
    """How to upload to the hub, as `huggingface_hub.PyTorchModelHubMixin.push_to_hub` takes it.

    Args:
        commit_message: of the commit.
        private: whether a new repository is private; None for what the account's settings say.
        token: a token; None for the one of `hf auth login`.
        branch: made if absent; None for the main one.
        create_pr: propose the change instead of making it.
    """

    commit_message: str = "Upload a network of senet"
    private: bool | None = None
    token: str | None = None
    branch: str | None = None
    create_pr: bool = False


def upload_model_folder(folder: Path, repo: str, upload: Upload) -> str:
    """Upload a model folder, making the repository and the branch if they are absent; return the model's address.

    Raises:
        HubError: the hub refuses, or cannot be reached.
    """
    api = HfApi(token=upload.token)
    try:
        url = api.create_repo(repo, private=upload.private, exist_ok=True)
        if upload.branch is not None:
            api.create_branch(repo, branch=upload.branch, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=upload.commit_message,
            revision=upload.branch,
            create_pr=upload.create_pr,
        )
    except (HFValidationError, HTTPError, OSError) as error:
        raise HubError(f"{repo} could not be uploaded to the hub ({said(error)}); {remedy(error)}") from error
    return str(url)


def said(error: Exception) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def remedy(error: Exception) -> str:
    """Return what to do about a request that failed."""
    if isinstance(error, HFValidationError):
        return "an id is owner/name"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return "run `hf auth login` with a token that may do this"
    return "check the connection and try again later"
