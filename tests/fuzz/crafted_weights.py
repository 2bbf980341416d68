"""Weights, runs and recordings that are bad on purpose, see `fuzz.crafted`."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from fuzz import seeds
from fuzz.crafted import DEEP, Crafted, odd_json, odd_texts, pickles, with_main, with_values


def odd_states() -> dict[str, Any]:
    """Values that are no state dicts, and state dicts that claim to be large."""
    state = dict(seeds.network().state_dict())
    circle: dict[str, Any] = dict(state)
    circle["again"] = circle
    nested: dict[str, Any] = {}
    for _ in range(150):
        nested = {"a": nested}
    laughs: dict[str, Any] = {"a": torch.zeros(1)}
    for _ in range(12):
        laughs = dict.fromkeys("abcdefghij", laughs)
    return {
        "a dictionary inside itself": circle,
        "ten times the same in ten times the same": laughs,
        "a large sparse weight": {
            **state,
            "conv1.weight": torch.sparse_coo_tensor(size=(1 << 16, 3, 1 << 10, 1 << 10)),
        },
        "dictionaries in dictionaries": {**state, "more": nested},
        "expanded weights": {key: torch.zeros(1).expand(1 << 20, 1 << 20) for key in state},
        "one expanded weight": {**state, "conv1.weight": torch.zeros(1, 1, 1, 1).expand(1 << 15, 1 << 15, 3, 3)},
        "one expanded classifier": {
            **state,
            "fc.weight": torch.zeros(1, 1).expand(1 << 30, 64),
            "fc.bias": torch.zeros(1).expand(1 << 30),
        },
        "sparse weights": {key: value.to_sparse() if value.dim() else value for key, value in state.items()},
        "meta weights": {key: value.to("meta") for key, value in state.items()},
        "quantized weights": {key: quantized(value) for key, value in state.items()},
        "complex weights": {key: value.to(torch.complex64) for key, value in state.items()},
        "no numbers": {
            key: value * float("nan") if value.is_floating_point() else value for key, value in state.items()
        },
        "empty weights": {key: value[:0] if value.dim() else value for key, value in state.items()},
        "lists": {key: value.tolist() for key, value in state.items()},
        "other keys": {(key, 1): value for key, value in state.items()},
        "strange keys": {f"\ud800{key}": value for key, value in state.items()},
        "long keys": {key * 500: value for key, value in state.items()},
        "a nested tensor": {"model": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])},
        "a module": torch.nn.Linear(1, 1),
        "a tensor": torch.zeros(3),
        "nothing": None,
    }


def quantized(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor in 8 bits."""
    return torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8)


def zip_bomb(content: bytes) -> bytes:
    """Return a zip file with the entries of another, and one that unpacks to a gigabyte of zeros."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        largest = max(old.infolist(), key=lambda entry: entry.file_size).filename
        for entry in old.infolist():
            archive.writestr(entry.filename, bytes(2**28) if entry.filename == largest else old.read(entry))
    return written.getvalue()


def weights(canary: Path) -> Crafted:
    """Files of weights."""
    found = {about: seeds.saved(value) for about, value in odd_states().items()}
    key = b"X\x01\0\0\0a"
    found["lists in lists"] = with_pickle(b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".")
    found["deep dictionaries"] = with_pickle(b"\x80\x02" + (b"}" + key) * DEEP + b"}" + b"s" * DEEP + b".")
    found["a long number"] = with_pickle(b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\1" * 100 + b".")
    found["a text of 4 GB"] = with_pickle(b"\x80\x02X\xff\xff\xff\xff.")
    found["places in the memory"] = with_pickle(b"\x80\x02}r\xff\xff\xff\x7fj\xff\xff\xff\x7f.")
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), scripted)
    found["TorchScript"] = scripted.getvalue()
    bomb = lambda: {"weights.pth": zip_bomb(seeds.weights()[0]["weights.pth"])}  # noqa: E731
    return {**with_main("weights.pth", found | pickles(canary)), "a zip bomb": bomb}


def with_pickle(content: bytes) -> bytes:
    """Return what torch.save writes, with a pickle of one's own."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seeds.saved({}))) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
    return written.getvalue()


def header(values: Any, data: bytes = b"") -> bytes:
    """Return a safetensors file."""
    described = values if isinstance(values, bytes) else json.dumps(values).encode()
    return len(described).to_bytes(8, "little") + described + data


def odd_headers() -> dict[str, bytes]:
    """Safetensors files with headers of all kinds."""

    def one(**about: Any) -> bytes:
        return header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **about}}, bytes(8))

    kinds = (
        "BOOL",
        "U8",
        "F4",
        "F6_E2M3",
        "F6_E3M2",
        "F8_E5M2",
        "F8_E4M3",
        "F8_E8M0",
        "F8_E4M3FNUZ",
        "I16",
        "U16",
        "C64",
        "U64",
    )
    return {
        **{
            f"dtype {kind}": one(dtype=kind, shape=[8 // size], data_offsets=[0, 8])
            for kind in kinds
            for size in (1, 2, 4, 8)
        },
        "huge shape": one(shape=[2**40, 2**40]),
        "negative shape": one(shape=[-2]),
        "offsets in the wrong order": one(data_offsets=[8, 0]),
        "offsets beyond the end": one(data_offsets=[0, 2**62]),
        "no tensors": header({}),
        "a list": header([]),
        "deep": header(b"[" * DEEP),
        "empty": b"",
        "a length beyond the end": (2**63).to_bytes(8, "little") + b"{}",
        "many dimensions": one(shape=[2, *[1] * 200]),
        "metadata of another kind": header({"__metadata__": {"senet": 3}}),
        "deep metadata": header(
            {"__metadata__": {"senet": "[" * DEEP}, "a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
        ),
    }


def safetensors(canary: Path) -> Crafted:
    """Files of weights in numbers alone, or that say so."""
    state = dict(seeds.network().state_dict())
    described = {f"description {i}": save(state, {"senet": value}) for i, value in enumerate(odd_texts())}
    return with_main("weights.safetensors", odd_headers() | described | pickles(canary))


def model_folder(canary: Path) -> Crafted:
    """Model folders."""
    (files,) = seeds.model_folder()
    name = "config.json"
    changes = {
        "a class for every atom": {"model.num_classes": 10**12},
        "many channels": {"model.in_channels": 10**9},
        "a huge image": {"preprocessing.image_size": 10**9, "preprocessing.resize": 10**9},
        "many statistics": {"preprocessing.mean": [0.5] * 10**6, "preprocessing.std": [0.5] * 10**6},
        "a network of a file": {"model.name": "../../canary"},
        "a network of timm": {"model.name": "timm/../../x"},
        "a module that is required": {"requires": ["os", "canary"]},
        "a module of code": {"requires": [f"os;os.mkdir({str(canary)!r})"]},
        "modules that are none": {"requires": 3},
        "many modules": {"requires": {"a": 1}},
        "another task": {"task": "../../x"},
        "a task that is none": {"task": ["detection"]},
        "a detector": {"task": "detection"},
        "options that are none": {"model.options": {"stages": 10**9}},
        "SE that is none": {"model.se": {"reduction": 0}},
        "a large SE": {"model.se": {"reduction": -1}},
        "classes that are none": {"class_names": [1, 2]},
        "a block that is none": {"block": ["x"]},
        "surgery that is none": {"surgery": {"inserted": [1]}},
    }
    bin_files = {
        about: {"config.json": files[name], "pytorch_model.bin": content} for about, content in pickles(canary).items()
    }
    timm = {"architecture": "resnet18", "num_classes": 10**12, "pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}
    timm_files = {
        "timm's": {**files, name: json.dumps(timm).encode()},
        "timm's with arguments": {
            **files,
            name: json.dumps(
                timm | {"num_classes": 10, "model_args": {"block": "os.system", "layers": [10**6]}}
            ).encode(),
        },
        "timm's efficientnet": {
            **files,
            name: json.dumps(
                {"architecture": "efficientnet_b0", "num_classes": 10**10, "model_args": {"drop_rate": "x"}}
            ).encode(),
        },
        "transformers'": {
            **files,
            name: json.dumps({"model_type": "resnet", "auto_map": {"AutoModel": "evil.Evil"}}).encode(),
        },
    }
    return with_values(name, files, changes) | odd_json(name, files) | bin_files | timm_files


def caffemodel(canary: Path) -> Crafted:
    """Caffe models."""
    from caffe_files import payload, varint

    def blob(shape: tuple[int, ...], data: bytes) -> bytes:
        dims = b"".join(varint(size % 2**64) for size in shape)
        described = payload(5, data) + payload(7, payload(1, dims))
        return payload(100, payload(1, b"classifier") + payload(7, described))

    shapes = {"negative": (-1, 4), "huge": (2**40, 2**40), "zeros": (0, 2**62), "many": (1,) * 100, "none": ()}
    found = {f"shape: {about}": blob(shape, bytes(16)) for about, shape in shapes.items()}
    found |= {"a length beyond the end": varint(100 << 3 | 2) + varint(2**62), "groups": varint(100 << 3 | 3) * DEEP}
    found |= {"odd bytes": blob((1,), bytes(3)), "a name that is none": payload(100, payload(1, b"\xff\xfe"))}
    found |= {
        "a line break in a name": payload(
            100, payload(1, b"a\nb" * 3000) + payload(7, payload(5, bytes(4)) + payload(7, payload(1, varint(1))))
        )
    }
    return with_main("net.caffemodel", found | pickles(canary))


def state(canary: Path) -> Crafted:
    """Training states."""
    good = {key: {} for key in ("model", "ema", "optimizer", "schedule", "scaler", "num_processes")}
    odd = {
        "a position that is none": good | {"position": None},
        "an empty position": good | {"position": {}},
        "a position of texts": good | {"position": {"epoch": "x", "best_top1": "y", "seconds": None}},
        "a list": [1],
        "a dictionary inside itself": odd_states()["a dictionary inside itself"],
    }
    found = {about: seeds.saved(value) for about, value in odd.items()}
    return with_main("last/training_state.pt", found | pickles(canary))


def run_folder(canary: Path) -> Crafted:
    """Run folders."""
    (files,) = seeds.run_folder()
    lines = {
        "metrics of lists": b"[1, 2]\n",
        "metrics of words": b'{"epoch": "x"}\n',
        "metrics of numbers": b"3\n",
        "metrics without numbers": b'{"epoch": NaN, "top1": Infinity}\n{"epoch": 1e400}\n',
        "metrics in Latin": b'{"epoch": 1, "\xe4": 1}\n',
        "deep metrics": b"[" * DEEP,
        "metrics of digits": b'{"epoch": ' + b"9" * 5000 + b"}\n",
    }
    found = {about: {**files, "metrics.jsonl": content} for about, content in lines.items()}
    for name in ("config.json", "data.json", "last/config.json"):
        found |= odd_json(name, files)
    for about, content in pickles(canary).items():
        found[f"state: {about}"] = {**files, "last/training_state.pt": content}
    return found


def recording(canary: Path) -> Crafted:
    """Recordings of gates."""

    def described(values: Any, **tensors: torch.Tensor) -> bytes:
        text = values if isinstance(values, str) else json.dumps(values)
        return save(tensors or {"a": torch.zeros(1)}, {"senet.recording": text})

    odd = {f"description {i}": described(word) for i, word in enumerate(odd_texts())}
    odd |= {
        "no classes": described({"blocks": []}),
        "classes that are none": described({"blocks": [], "class_names": 3, "provenance": 3}),
        "blocks that are none": described({"blocks": 3, "class_names": [], "provenance": {}}),
        "a block that is none": described({"blocks": [{"side": 3}], "class_names": [], "provenance": {}}),
    }
    return with_main("gates.safetensors", odd | odd_headers() | pickles(canary))
