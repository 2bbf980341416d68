"""Entry points for torch.hub: `torch.hub.load("OWNER/senet", "se_resnet50", weights=...)`; see `senet.create_model`."""

import sys
from functools import partial as _partial
from pathlib import Path as _Path

dependencies = [
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "safetensors",
    "huggingface_hub",
    "lazy_loader",
    "tyro",
]
sys.path.insert(0, str(_Path(__file__).parent / "src"))

from senet import create_model as _create_model  # noqa: E402  (it is found by the line above)
from senet import list_models as _list_models  # noqa: E402  (it is found by the line above)

for _name in _list_models():
    globals()[_name] = _partial(_create_model, _name)
    globals()[_name].__doc__ = f"Build {_name}; see senet.create_model."
