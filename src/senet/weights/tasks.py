"""Models that do not classify: the module that describes and rebuilds them, by the "task" of their config.json.

Such a module has `describe(model)`, which returns the content of config.json; `check_readable(model)`, which raises a
SenetError unless that builds the model again; `summary(model)`, a few lines for the model card; and
`build(description)`, which returns the model with random weights.
"""

from importlib import import_module
from typing import Any

from senet.errors import SenetError

TASKS = {"detection": "senet.detection.saving"}
"""The name of the module of each task, for parts below cannot import it."""


def module_of(task: str) -> Any:
    """Return the module of a task.

    Raises:
        SenetError: this version does not know the task.
    """
    if task not in TASKS:
        raise SenetError(f"its task is {task!r}, which this version does not know; update senet")
    return import_module(TASKS[task])


def task_of(model: object) -> str | None:
    """Return the task of a model; None for one that classifies."""
    task = getattr(model, "task", None)
    return task if isinstance(task, str) and task in TASKS else None
