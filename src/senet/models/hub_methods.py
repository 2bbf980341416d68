"""`save_pretrained`, `push_to_hub` and `from_pretrained` as methods of the networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from senet.errors import SenetError


@dataclass(frozen=True, kw_only=True)
class HubFunctions:
    """The functions that the methods call.

    Args:
        save: `senet.save_pretrained`.
        push: `senet.push_to_hub`.
        read: `senet.from_pretrained`.
    """

    save: Callable[..., None]
    push: Callable[..., str]
    read: Callable[..., Any]


class HubMethods:
    """The functions `senet.save_pretrained`, `push_to_hub` and `from_pretrained` as methods.

    Their arguments are those of `huggingface_hub.PyTorchModelHubMixin`. They are not inherited from it: it records the
    arguments of every constructor, which for a network are its layers and not its name, writes these as config.json,
    and reads no others, so that neither timm's models nor folders of this library could be opened.

    The architectures read and write no files: `senet.factory`, which knows the functions that do, provides them here
    when it is imported.
    """

    hub: ClassVar[HubFunctions]

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        metrics: Mapping[str, float] | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write this network as a model folder, see `senet.save_pretrained`.

        Args:
            save_directory: made if absent.
            metrics: what was measured of the network.
            repo_id: on the hub; None for the folder's name.
            push_to_hub: upload it as well.
            **push_to_hub_kwargs: see `push_to_hub`.

        Returns:
            The address of the model on the hub; None if it is not uploaded.

        Raises:
            SenetError: the network could not be read back.
        """
        if not push_to_hub and (repo_id is not None or push_to_hub_kwargs):
            argument = "repo_id" if repo_id is not None else min(push_to_hub_kwargs)
            raise SenetError(f"{argument} has no effect without push_to_hub=True")
        self.hub.save(self, save_directory, metrics)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or Path(save_directory).resolve().name, metrics=metrics, **push_to_hub_kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        commit_message: str = "Upload a network of senet",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload this network to the Hugging Face hub and return its address there, see `senet.push_to_hub`."""
        return self.hub.push(
            self,
            repo_id,
            metrics=metrics,
            commit_message=commit_message,
            private=private,
            token=token,
            branch=branch,
            create_pr=create_pr,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Open a network with its weights, in evaluation mode, see `senet.from_pretrained`.

        Raises:
            SenetError: as there; or the network is of another class than this one.
        """
        model = cls.hub.read(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        if not isinstance(model, cls):
            raise SenetError(
                f"{pretrained_model_name_or_path} is a {type(model).__name__}, not a {cls.__name__}; "
                "open it by senet.from_pretrained"
            )
        return model
