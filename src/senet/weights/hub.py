"""The Hugging Face hub: fetching a model folder from it."""

import re
from pathlib import Path

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

from senet.errors import SenetError

HUB_ID = re.compile(r"^(hf[-_]hub:)?(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
FILES = (".safetensors", ".pt", ".pth", ".th", ".pkl", ".bin", ".ckpt", ".tar", ".caffemodel")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def is_hub_id(source: str) -> bool:
    """Return whether `source` has the form of a hub id: "owner/name", "hf-hub:owner/name", "owner/name@revision".

    What ends like a file of weights is a path.
    """
    return HUB_ID.match(source) is not None and Path(source).suffix not in FILES


def fetch_model_folder(source: str) -> Path:
    """Download config.json and the weights of a model on the hub, or find them in the local cache.

    Args:
        source: a hub id, see `is_hub_id`.

    Returns:
        The folder of the cache that holds both.

    Raises:
        SenetError: no such model or revision, no access, no weights in it, or the hub cannot be reached.
    """
    match = HUB_ID.match(source)
    assert match is not None
    repo, revision = match["repo"], match["revision"]
    try:
        config = hf_hub_download(repo, "config.json", revision=revision)
        commit = Path(config).parent.name  # the folder of the cache is called so; a branch may move in between
        return fetch_weights(repo, commit, source).parent
    except GatedRepoError as error:
        raise SenetError(f"{source} on the hub is gated; ask for access there and run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise SenetError(
            f"there is neither a file or folder {source} nor a public model of this id on the hub; "
            "check the spelling, or run `hf auth login` for a private one"
        ) from error
    except RevisionNotFoundError as error:
        raise SenetError(f"{repo} on the hub has no revision {revision!r}; leave it out for the newest") from error
    except LocalEntryNotFoundError as error:
        raise SenetError(
            f"{source} is no file or folder, and the hub cannot be reached to look for it there; "
            "check the connection, or HF_HUB_OFFLINE"
        ) from error
    except EntryNotFoundError as error:
        raise SenetError(f"{source} on the hub has no config.json; name the repository of a model") from error
    except (HFValidationError, HTTPError, OSError) as error:
        raise SenetError(f"{source} could not be fetched from the hub ({said(error)}); {remedy(error)}") from error


def fetch_weights(repo: str, commit: str, source: str) -> Path:
    """Download the weights of a commit, or find them in the local cache; what the hub cannot say, the cache may."""
    unreachable = None
    for name in WEIGHTS:
        try:
            return Path(hf_hub_download(repo, name, revision=commit))
        except LocalEntryNotFoundError as error:
            unreachable = error
        except EntryNotFoundError:
            continue
    raise unreachable or SenetError(f"{source} on the hub holds neither {' nor '.join(WEIGHTS)}; name another model")


def upload_model_folder(folder: Path, repo: str, *, private: bool, token: str | None) -> str:
    """Upload a model folder, making the repository if it is absent; return its address.

    Raises:
        SenetError: the hub refuses, or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder)
    except (HFValidationError, HTTPError, OSError) as error:
        raise SenetError(f"{repo} could not be uploaded to the hub ({said(error)}); {remedy(error)}") from error
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
