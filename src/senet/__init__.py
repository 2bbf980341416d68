"""Squeeze-and-Excitation networks in PyTorch: the block, the networks of the paper, training, evaluation.

Every public name is here; the module that holds it is imported when the name is first used, so that `import senet`
costs no more than what is used of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wrapt import register_post_import_hook

if TYPE_CHECKING:
    from senet.ablation import ablate as ablate
    from senet.analysis.ablating import ablate_blocks as ablate_blocks
    from senet.analysis.pruning import prune_se as prune_se
    from senet.analysis.recording import Recording as Recording
    from senet.analysis.recording import record_excitations as record_excitations
    from senet.analysis.report import explain as explain
    from senet.block import SEBlock as SEBlock
    from senet.block import SEOptions as SEOptions
    from senet.costs import Cost as Cost
    from senet.costs import cost as cost
    from senet.data.config import DataConfig as DataConfig
    from senet.errors import SenetError as SenetError
    from senet.evaluation import Evaluation as Evaluation
    from senet.evaluation import evaluate as evaluate
    from senet.insertion import InsertionReport as InsertionReport
    from senet.insertion import find_sites as find_sites
    from senet.insertion import insert_se as insert_se
    from senet.insertion import remove_se as remove_se
    from senet.models.cards import ModelConfig as ModelConfig
    from senet.models.folder import from_pretrained as from_pretrained
    from senet.models.folder import push_to_hub as push_to_hub
    from senet.models.folder import save_pretrained as save_pretrained
    from senet.models.registry import create_model as create_model
    from senet.models.registry import list_models as list_models
    from senet.models.registry import model_card as model_card
    from senet.models.weights import LoadReport as LoadReport
    from senet.models.weights import load_weights as load_weights
    from senet.optimization import optimize as optimize
    from senet.prediction import predict as predict
    from senet.preprocessing import Preprocessing as Preprocessing
    from senet.preprocessing import transform as transform
    from senet.training.config import TrainConfig as TrainConfig
    from senet.training.loop import train as train

__version__ = "0.1.0"

_HOMES = {
    "senet.ablation": ("ablate",),
    "senet.analysis.ablating": ("ablate_blocks",),
    "senet.analysis.pruning": ("prune_se",),
    "senet.analysis.recording": ("Recording", "record_excitations"),
    "senet.analysis.report": ("explain",),
    "senet.block": ("SEBlock", "SEOptions"),
    "senet.costs": ("Cost", "cost"),
    "senet.data.config": ("DataConfig",),
    "senet.errors": ("SenetError",),
    "senet.evaluation": ("Evaluation", "evaluate"),
    "senet.insertion": ("InsertionReport", "find_sites", "insert_se", "remove_se"),
    "senet.models.cards": ("ModelConfig",),
    "senet.models.folder": ("from_pretrained", "push_to_hub", "save_pretrained"),
    "senet.models.registry": ("create_model", "list_models", "model_card"),
    "senet.models.weights": ("LoadReport", "load_weights"),
    "senet.optimization": ("optimize",),
    "senet.prediction": ("predict",),
    "senet.preprocessing": ("Preprocessing", "transform"),
    "senet.training.config": ("TrainConfig",),
    "senet.training.loop": ("train",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

register_post_import_hook("senet.models.timm_registry:register", "timm")

__all__ = sorted(_HOME_OF)  # one table says what is public


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'senet' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
