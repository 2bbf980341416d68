"""Reading weights, and what is known of where they come from, from a file, a model folder or the hub."""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from senet.configs import from_dict
from senet.data.preprocessing import Preprocessing, preprocessing_from_timm
from senet.errors import HubError, MissingExtraError, MissingFileError, SenetError, nearest, warn
from senet.files import parse_json
from senet.models.catalog import CARDS, model_card
from senet.models.config import ModelConfig, config_from_dict, se_from_dict
from senet.models.description import FORMATS, named_in_order, surgery_from_dict
from senet.models.external import is_external
from senet.models.from_torchvision import output_kept_clean, preprocessing_from_torchvision
from senet.models.timm_protocol import name_from_timm
from senet.nn.block import SEOptions
from senet.plugins import MAIN, check_imported
from senet.weights.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint
from senet.weights.hub import FILES, HUB_ID, Download, fetch_model_folder, is_hub_id
from senet.weights.layouts import CAFFE, SENET, Layout, State, find_layout, recognize
from senet.weights.tasks import module_of
from senet.weights.tensors import read_state

TIMM_WEIGHTS_FILE = "pytorch_model.bin"
TOLD_ELSEWHERE = ("num_classes", "global_pool", "in_chans")
"""Arguments of a network of timm's that its config.json has elsewhere too."""


def read(
    source: str | Path,
    *,
    layout: str | None = None,
    key: str | None = None,
    names: Collection[str] = (),
    download: Download | None = None,
) -> Checkpoint:
    """Read weights from a file, a model or run folder, the hub or torchvision; nothing in them is executed.

    Args:
        source: a path; a hub id ("owner/name", "hf-hub:owner/name", with "@revision" if need be), or
            "torchvision/NAME.TAG".
        layout: whose keys and shapes these are; None for what the keys say.
        key: which of several networks in a file, see `read_state`.
        names: those of the tensors of another library's network, which are then not renamed.
        download: how to fetch from the hub; None for the defaults.

    Raises:
        SenetError: it is absent, cannot be reached, truncated, or holds no weights; there is no such layout, or the
            weights state their layout themselves.
    """
    path, word = Path(source), str(source)
    if path.is_file() or not (path.is_dir() or is_hub_id(word)):
        return read_file(path, layout, key, names)
    if key is not None:
        raise SenetError(f"key={key!r} has no effect: {source} is no file, and holds one network")
    if word.startswith("torchvision/") and not path.exists():
        return read_torchvision(word, layout, renamed=not names)
    if path.is_dir():
        return read_folder(find_model_folder(path), word, layout, renamed=not names)
    try:
        folder = fetch_model_folder(word, download or Download())
    except MissingFileError:
        if not word.startswith("timm/"):
            raise
        found = read_timm_file(word, layout, renamed=not names)
        if found is None:
            raise
        return found
    return read_folder(folder, word, layout, renamed=not names)


def find_model_folder(source: str | Path) -> Path:
    """Return the model folder in `source`: itself, or the best/ (else last/) of a run folder.

    Raises:
        SenetError: there is none.
    """
    source = Path(source)
    for folder in (source, source / "best", source / "last"):
        has_weights = any((folder / name).is_file() for name in (WEIGHTS_FILE, TIMM_WEIGHTS_FILE))
        if has_weights and (folder / CONFIG_FILE).is_file():
            return folder
    if not source.exists():
        on_hub = f"; a model of the hub is named hf-hub:{source}" if HUB_ID.match(str(source)) else ""
        raise MissingFileError(f"there is no folder {source}{alike(source)}{on_hub}")
    files = [file for file in sorted(source.iterdir()) if file.suffix in FILES] if source.is_dir() else []
    remedy = f"; name the file in it, {files[0]}" if files else "; name one that senet train or senet convert wrote"
    raise SenetError(
        f"{source} is neither a model folder ({WEIGHTS_FILE} and {CONFIG_FILE}) nor a run folder (best/, last/){remedy}"
    )


def alike(absent: Path) -> str:
    """Return which folders beside one that is not there have names like its, for the end of a sentence."""
    beside: list[str] = []
    with suppress(OSError, ValueError):  # a name that no file can have
        beside = [entry.name for entry in absent.parent.iterdir() if entry.is_dir()]
    near = get_close_matches(absent.name, beside)
    return f"; the nearest folders in {absent.parent.absolute().name} are {', '.join(near)}" if near else ""


def read_folder(folder: Path, source: str, layout: str | None, *, renamed: bool) -> Checkpoint:
    """Read a model folder of this library or of timm: config.json and the weights in the same folder."""
    described = read_description(folder / CONFIG_FILE)
    file = folder / WEIGHTS_FILE
    found = read_state(file if file.is_file() else folder / TIMM_WEIGHTS_FILE)
    recognized = SENET if {"config", "description"} & described.keys() else recognize(found.tensors)
    return converted(source, found.tensors, recognized, layout, renamed=renamed, **described)


def read_file(path: Path, layout: str | None, key: str | None, names: Collection[str]) -> Checkpoint:
    """Read a file of weights; one that `save_pretrained` or a network's state dict wrote describes itself."""
    if path.suffix == ".caffemodel":
        if key is not None:
            raise SenetError(f"key={key!r} has no effect: {path} holds one network")
        return converted(str(path), read_caffe(path), CAFFE, layout)
    found = read_state(path, key, names)
    described = {} if found.description is None else read_description(path, found.description)
    recognized = SENET if described else recognize(found.tensors)
    return converted(str(path), found.tensors, recognized, layout, renamed=not names, notes=found.notes, **described)


def read_caffe(path: Path) -> State:
    """Read one of the authors' files, as the tensors of this library's network."""
    from senet.weights.caffe import read_caffemodel, to_state_dict  # protobuf only where it is needed

    blobs = read_caffemodel(path)
    try:
        return to_state_dict(blobs)
    except SenetError as error:
        raise SenetError(f"{path}: {error}") from error


def read_timm_file(source: str, layout: str | None, *, renamed: bool) -> Checkpoint | None:
    """Read weights that timm keeps outside the hub, such as its legacy ones; None if "timm/NAME.TAG" are none of these.

    Raises:
        HubError: their server cannot be reached, or refuses.
    """
    with suppress(ImportError, RuntimeError):  # timm is not installed, or has no weights of this name
        from timm.models import get_pretrained_cfg
        from timm.models._hub import download_cached_file

        published = source.removeprefix("timm/")
        cfg = get_pretrained_cfg(published)
        if cfg is None or not cfg.url or cfg.hf_hub_id:
            return None
        try:
            with output_kept_clean():
                file = Path(download_cached_file(cfg.url, check_hash=False, progress=False))
        except OSError as error:
            raise HubError(f"{source} cannot be fetched from {cfg.url} ({error}); try again later") from error
        state, architecture = read_state(file).tensors, published.partition(".")[0]
        about = {
            "architecture": architecture,
            "name": name_of_timm(architecture),
            "preprocessing": preprocessing_from_timm(vars(cfg)),
        }
        return converted(source, state, recognize(state), layout, renamed=renamed, **about)
    return None


def read_torchvision(source: str, layout: str | None, *, renamed: bool) -> Checkpoint:
    """Read the weights that torchvision publishes under "torchvision/NAME.TAG"; its default ones without a tag."""
    from torchvision.models import get_model_weights, list_models

    architecture, _, tag = source.partition("/")[2].partition(".")
    if architecture not in list_models():
        names = nearest(architecture, list_models())
        raise SenetError(f"torchvision has no network {architecture!r}; the nearest are {names}")
    known = get_model_weights(architecture)
    if tag and tag not in known.__members__:
        raise SenetError(f"torchvision has no weights {tag!r} of {architecture}; it has {', '.join(known.__members__)}")
    weights = known[tag or "DEFAULT"]
    try:
        with output_kept_clean():
            state = dict(weights.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise HubError(f"{source} cannot be fetched ({error}); check the connection and try again later") from error
    return converted(
        source,
        state,
        recognize(state),
        layout,
        renamed=renamed,
        architecture=architecture,
        name=name_of_timm(architecture),
        preprocessing=preprocessing_from_torchvision(architecture, tag),
    )


def converted(
    source: str, tensors: State, recognized: Layout, asked: str | None, *, renamed: bool = True, **described: Any
) -> Checkpoint:
    """Return a checkpoint with the tensors under this library's keys, from the layout that is asked for or recognized.

    Raises:
        SenetError: there is no such layout, or the weights state their layout themselves.
    """
    layout = recognized if asked is None else find_layout(asked)
    if layout is not recognized and ("config" in described or recognized is CAFFE):
        raise SenetError(f"{source} is known to have layout {recognized.name}; leave layout={asked!r} out")
    state = layout.convert(tensors) if renamed else tensors
    return Checkpoint(source=source, state=state, layout=layout, **described)


# ---- what config.json says -------------------------------------------------------------------------------------------


def registered_by_program(values: Any) -> str:
    """Return what explains an unknown name in a config.json: the program that saved it had registered it itself."""
    if not isinstance(values, Mapping) or MAIN not in values.get("requires", ()):
        return ""
    return "; the program that saved it registered what it needs itself: import the file that does so first"


def read_description(path: Path, text: str | None = None) -> dict[str, Any]:
    """Return fields of `Checkpoint` from a config.json, or from the same text within a file of weights.

    Args:
        path: of the file.
        text: None for the whole file.

    Raises:
        SenetError: it is neither what `save_pretrained` nor what timm writes.
    """
    values = None
    try:
        values = parse_json(path.read_text() if text is None else text)
        check_imported(values.get("requires", ()), str(path))
        return parse_description(values)
    except MissingExtraError:  # of a module that registers what the network consists of
        raise
    except (SenetError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if text is not None:
            raise SenetError(
                f"{path} has a description that this version does not read ({error}); it may be of a newer one"
            ) from error
        if isinstance(error, SenetError):
            raise SenetError(f"{path}: {error}{registered_by_program(values)}") from error
        raise SenetError(f"{path} is not a senet model configuration ({error})") from error


def parse_description(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of `Checkpoint` from the values of a config.json."""
    if "model" not in values and "architecture" in values:
        return parse_timm(values)
    if "model_type" in values and "model" not in values and "task" not in values:
        raise SenetError(
            f"it is of {values['model_type']} in transformers, whose networks are not read here; take the same one of "
            "timm's"
        )
    if values.get("format", FORMATS[-1]) not in FORMATS:
        known = " and ".join(FORMATS)
        raise SenetError(f"its format is {values['format']!r}, this version reads {known}; update senet")
    if "task" in values:
        module_of(values["task"])  # says what is wrong with a task that it does not know
        return {"description": values}
    config, names = config_from_dict(values["model"]), values["class_names"]
    if not is_external(config.name):
        model_card(config.name)  # raises for a name that is none
    return {
        "config": config,
        "name": config.name,
        "surgery": surgery_from_dict(values.get("surgery", values["model"])),
        "preprocessing": from_dict(Preprocessing, values["preprocessing"], name="preprocessing"),
        "class_names": None if names is None else tuple(names),
        "block": values.get("block"),
    }


def parse_timm(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of `Checkpoint` from a config.json that timm wrote."""
    name, preprocessing = values["architecture"], preprocessing_from_timm(values.get("pretrained_cfg", values))
    own, about = name_from_timm(name), {"preprocessing": preprocessing, "class_names": class_names_of_timm(values)}
    if own is not None and own in CARDS:
        return {"config": config_of_timm(own, values), "name": own, **about}
    if name_of_timm(name) is None and is_in_timm(name):
        config = ModelConfig(
            name=f"timm/{name}",
            num_classes=values.get("num_classes", values.get("pretrained_cfg", values).get("num_classes")),
            in_channels=preprocessing.in_channels,
            options={k: single(v) for k, v in (values.get("model_args") or {}).items() if k not in TOLD_ELSEWHERE},
        )
        return {"config": config, "name": config.name, **about}
    return {"architecture": name, "name": name_of_timm(name), **about}


def class_names_of_timm(values: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes in a config.json that timm wrote, a list or {number: name}; None without any."""
    about = values.get("pretrained_cfg", values)
    names = values.get("label_names") or about.get("label_names")
    if not names:
        return None
    number = values.get("num_classes", about.get("num_classes"))
    if len(names) != number:
        named = values.get("architecture")
        warn(f"label_names of {named} are {len(names)}, for {number} classes in its config.json; they are not used")
        return None
    return named_in_order(names, "label_names") if isinstance(names, Mapping) else tuple(map(str, names))


def single(value: Any) -> Any:
    """Return the number that a list such as timm's img_size, [64, 64], has for both sides; any other value as it is."""
    return value[0] if isinstance(value, list) and len(value) == 2 and value[0] == value[1] else value


def is_in_timm(architecture: str) -> bool:
    """Whether timm is installed and has a network of this name."""
    with suppress(ImportError):
        import timm

        return bool(timm.is_model(architecture))
    return False


def name_of_timm(architecture: str) -> str | None:
    """Return this library's name of one of timm's networks; None if it is not in the paper."""
    name = re.sub(r"^(legacy|tv|gluon)_|_v1b$", "", architecture)
    name = {"mobilenetv1_100": "mobilenet_v1"}.get(name, name)
    name = re.sub(r"^seres", "se_res", name)
    return name if name in CARDS else None


def config_of_timm(name: str, values: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of one of this library's networks that timm's functions have saved.

    Raises:
        SenetError: an argument of the network that cannot be read back.
    """
    arguments = dict(values.get("model_args", {}))
    se = arguments.pop("se", {})
    for told_elsewhere in ("num_classes", "global_pool"):
        arguments.pop(told_elsewhere, None)
    in_channels = arguments.pop("in_chans", values.get("pretrained_cfg", values).get("input_size", (3,))[0])
    dropout = arguments.pop("drop_rate", None)
    options = arguments if dropout is None else arguments | {"dropout": dropout}
    for option in options:
        if option not in model_card(name).options:
            raise SenetError(f"model_args has {option!r}, which {name} does not take; save it by senet.save_pretrained")
    return ModelConfig(
        name=name,
        num_classes=values["num_classes"],
        in_channels=in_channels,
        se=se if isinstance(se, SEOptions) else se_from_dict(se),
        options=options,
    )
