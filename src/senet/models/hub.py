"""The Hugging Face hub: fetching a model folder from it."""

import re
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from senet.errors import SenetError

HUB_ID = re.compile(r"^(hf[-_]hub:)?(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
FILES = (".safetensors", ".pt", ".pth", ".pkl", ".bin", ".caffemodel")
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
        for name in WEIGHTS:
            try:
                hf_hub_download(repo, name, revision=revision)
                return Path(config).parent
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError):
                    raise
        raise SenetError(f"{source} on the hub holds neither {' nor '.join(WEIGHTS)}; name another model")
    except GatedRepoError as error:
        raise SenetError(f"{source} on the hub is gated; ask for access there and run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise SenetError(
            f"there is neither a file or folder {source} nor a public model of this id on the hub; "
            "check the spelling, or run `hf auth login` for a private one"
        ) from error
    except RevisionNotFoundError as error:
        raise SenetError(f"{repo} on the hub has no revision {revision!r}") from error
    except LocalEntryNotFoundError as error:
        raise SenetError(
            f"{source} is no file or folder, and the hub cannot be reached to look for it there; "
            "check the connection, or HF_HUB_OFFLINE"
        ) from error
    except EntryNotFoundError as error:
        raise SenetError(f"{source} on the hub has no config.json; name the repository of a model") from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise SenetError(
            f"{source} could not be fetched from the hub ({first_line(error)}); try again later"
        ) from error


def upload_model_folder(folder: Path, repo: str, *, private: bool, token: str | None) -> str:
    """Upload a model folder, making the repository if it is absent; return its address.

    Raises:
        SenetError: the hub refuses, or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder)
    except LocalTokenNotFoundError as error:
        raise SenetError("the hub wants a token to upload; run `hf auth login` or pass token") from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise SenetError(f"{repo} could not be uploaded to the hub ({first_line(error)})") from error
    return str(url)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
