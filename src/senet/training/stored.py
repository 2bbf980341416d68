"""The configuration of a run as its config.json holds it, which runs of former versions wrote otherwise."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from senet.configs import overlaid, to_dict
from senet.models.config import config_from_dict
from senet.training.config import Config, RunConfig, configuration_of

TASK = "classification"
"""Of runs whose config.json says none, as before there were others."""
BESIDE_CONFIG = ("task", "num_processes", "requires")
"""What config.json says besides the configuration."""


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a configuration with other values.

    Args:
        config: of a run.
        changes: the values by dotted name.
    """
    tops = {name.partition(".")[0] for name in changes}
    return replace(config, **{top: overlaid(getattr(config, top), changes, top) for top in tops})


def read_config(values: Any) -> RunConfig:
    """Return the configuration that a run's config.json holds.

    Raises:
        SenetError: it is not one.
    """
    if not isinstance(values, Mapping):
        return configuration_of(TASK).from_dict(values)
    task = values.get("task", TASK)
    values = {name: value for name, value in values.items() if name not in BESIDE_CONFIG}
    if "regularisation" in values:
        values = before_the_first_release(values)
    compute = values.get("compute")
    if isinstance(compute, Mapping) and isinstance(compute.get("compile"), bool):  # as it was at first
        values = {**values, "compute": {**compute, "compile": "on" if compute["compile"] else "off"}}
    return configuration_of(task).from_dict(values)


def before_the_first_release(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of a config.json from before the first release to the present form."""
    fused = {None: "auto", True: "on", False: "off"}
    return {
        **{name: value for name, value in values.items() if name != "regularisation"},
        "model": to_dict(config_from_dict(values["model"])),
        "regularization": values["regularisation"],
        "compute": {**values["compute"], "fused": fused[values["compute"]["fused"]]},
    }


def digest_of(config: RunConfig) -> str:
    """Return a short text by which a configuration is known again."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:16]
