"""Inputs that are bad on purpose: code in every place that could run some, names that lead elsewhere, small files that
claim to be large, nesting without end. Each of those with code would make the folder `canary` if it ran."""

import io
import json
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from fuzz import seeds
from fuzz.mutations import Files

DEEP = 100_000


class Trap:
    """Makes a folder when it is unpickled without restriction."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


Crafted = dict[str, "Files | Callable[[], Files]"]
"""Inputs by what they are; those that take a while to make are made when they are needed."""


def nothing(canary: Path) -> Crafted:
    """No input."""
    return {}


def pickles(canary: Path) -> dict[str, bytes]:
    """Pickles with code, in every form in which PyTorch has written any."""
    trap = Trap(canary)
    old = io.BytesIO()
    with tarfile.open(fileobj=old, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            add(archive, name, pickle.dumps(trap))
    arrays = io.BytesIO()
    np.savez(arrays, weight=np.array([trap], dtype=object))
    state = dict(seeds.network().state_dict())
    return {
        "code in a pickle": pickle.dumps({"state_dict": trap}),
        "code in a zip file": seeds.saved({"state_dict": trap}),
        "code beside weights": seeds.saved({"model": state, "args": trap}),
        "code in a legacy file": seeds.saved({"state_dict": trap}, zipped=False),
        "code in PyTorch's first format": old.getvalue(),
        "code in NumPy's arrays": arrays.getvalue(),
        "code by name": b"\x80\x02cos\nsystem\nX" + text(f"mkdir {canary}") + b"\x85R.",
        "code by build": b"\x80\x02cfunctools\npartial\nX" + text(f"mkdir {canary}") + b"\x85R.",
        "code by eval": b"\x80\x02cbuiltins\neval\nX" + text(f"__import__('os').mkdir({str(canary)!r})") + b"\x85R.",
    }


def text(words: str) -> bytes:
    """Return the argument of a pickle's BINUNICODE."""
    return len(words.encode()).to_bytes(4, "little") + words.encode()


def add(archive: tarfile.TarFile, name: str, content: bytes, **about: Any) -> None:
    """Add a file to a tar file."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in about.items():
        setattr(entry, key, value)
    archive.addfile(entry, io.BytesIO(content))


def with_main(name: str, contents: Mapping[str, bytes], beside: Files | None = None) -> dict[str, Files]:
    """Return inputs that differ in one file."""
    return {about: {**(beside or {}), name: content} for about, content in contents.items()}


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


def odd_texts() -> tuple[str, ...]:
    """JSON of all kinds."""
    return "[" * DEEP, '{"a":' * DEEP, "3", "null", "[]", '{"model": 3}', '"x"', "9" * 5000, "NaN", ""


def with_values(name: str, files: Files, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Files]:
    """Return inputs in whose JSON some values, by their dotted names, are others."""
    found = {}
    for about, values in changes.items():
        content = json.loads(files[name])
        for key, value in values.items():
            *homes, last = key.split(".")
            home = content
            for each in homes:
                home = home[each]
            home[last] = value
        found[about] = {**files, name: json.dumps(content).encode()}
    return found


def odd_json(name: str, files: Files) -> dict[str, Files]:
    """Return inputs whose file of JSON holds something else."""
    texts = {f"{name} is {word[:20]}": word.encode() for word in odd_texts()}
    texts |= {f"{name} in UTF-16": files[name].decode().encode("utf-16"), f"{name} in Latin": b'{"\xe4": 1}'}
    return {about: {**files, name: content} for about, content in texts.items()}


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


# ---- data ------------------------------------------------------------------------------------------------------------


def index(canary: Path) -> Crafted:
    """Indexes of shards."""
    (files,) = seeds.index()
    name = "senet-shards.json"
    changes: dict[str, dict[str, Any]] = {}
    for shard in (
        "../up.tar",
        "/etc/hostname",
        "a/../../up.tar",
        "http://127.0.0.1:9/x.tar",
        "pipe:mkdir x",
        "C:\\x.tar",
        "x" * 300 + ".tar",
    ):
        changes[f"a shard called {shard[:30]}"] = {"name": shard}
    changes |= {
        "huge images": {
            "sizes": [2**61],
            "packed": True,
            "offsets": [0],
            "labels": [0],
            "names": ["a"],
            "digests": None,
        },
        "images at the end": {
            "offsets": [2**61],
            "packed": True,
            "sizes": [10],
            "labels": [0],
            "names": ["a"],
            "digests": None,
        },
        "numbers beyond 64 bits": {"offsets": [2**70]},
        "labels below 0": {"labels": [-1]},
        "lists of lists": {"labels": [[0]]},
        "a huge file": {"bytes": 2**62},
        "a file below 0": {"bytes": -1},
        "packed": {"packed": True},
        "another column": {"packed": True, "column": "../../x"},
    }
    found = {}
    for about, values in changes.items():
        content = json.loads(files[name])
        for shard in content["shards"]:
            shard |= values
        found[about] = {**files, name: json.dumps(content).encode()}
    tops = {
        "a class for every atom": {"class_names": "abc"},
        "another version": {"version": 10**30},
        "version NaN": {"version": float("nan")},
    }
    return found | with_values(name, files, tops) | odd_json(name, files)


def tar(canary: Path) -> Crafted:
    """Tar files."""
    image = seeds.picture()

    def made(*entries: tuple[str, bytes, dict[str, Any]], form: int = tarfile.PAX_FORMAT) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, content, about in entries:
                add(archive, name, content, **about)
        return file.getvalue()

    good = (("0.png", image, {}), ("0.cls", b"0", {}), ("1.png", image, {}), ("1.cls", b"1", {}))
    link = {"type": tarfile.SYMTYPE, "linkname": "../../up"}
    found = {
        "names that lead elsewhere": made(*((f"../../up/{name}", content, {}) for name, content, _ in good)),
        "absolute names": made(*((f"{canary}/{name}", content, {}) for name, content, _ in good)),
        "links": made(("up", b"", link), ("up/0.png", image, {}), ("up/0.cls", b"0", {}), *good),
        "a link to itself": made(("a", b"", {"type": tarfile.LNKTYPE, "linkname": "a"}), *good),
        "devices": made(("0.png", b"", {"type": tarfile.CHRTYPE}), *good),
        "a size below 0": made(("0.png", image, {"pax_headers": {"size": "-1024"}}), *good),
        "a size of 512 below 0": made(("0.png", image, {"pax_headers": {"size": "-512"}}), *good),
        "a huge size": made(("0.png", image, {"pax_headers": {"size": str(2**62)}}), *good),
        "a sparse file": made(
            ("0.png", image, {"pax_headers": {"GNU.sparse.size": str(2**62), "GNU.sparse.map": "0,512"}}), *good
        ),
        "sparse, version 1": made(
            ("0.png", image, {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}}), *good
        ),
        "many headers": header_of(tarfile.XHDTYPE, b"") * 3000 + made(*good),
        "many long names": header_of(tarfile.GNUTYPE_LONGNAME, b"a\0") * 3000 + made(*good),
        "a binary size below 0": with_size(made(*good), b"\xff" * 12),
        "a binary size of 1 below 0": with_size(made(*good), b"\xff" * 10 + b"\xfe\x00"),
        "a huge binary size": with_size(made(*good), b"\x80" + b"\x7f" * 11),
        "labels of lists": made(("0.png", image, {}), ("0.json", b"[" * DEEP, {}), *good[2:]),
        "labels of digits": made(("0.png", image, {}), ("0.cls", b"9" * 5000, {}), *good[2:]),
        "a large label": made(("0.png", image, {}), ("0.cls", b"9" * 15, {}), *good[2:]),
        "a picture that is none": made(("0.png", b"x", {}), ("0.cls", b"0", {}), *good[2:]),
        "an array of objects": made(("0.npy", objects(canary), {}), ("0.cls", b"0", {}), *good[2:]),
        "a pickle": made(("0.png", image, {}), ("0.cls", pickle.dumps(Trap(canary)), {}), *good[2:]),
    }
    return with_main("train-0.tar", found)


def header_of(kind: bytes, content: bytes) -> bytes:
    """Return a member of a tar file, alone."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, len(content)
    return entry.tobuf(tarfile.GNU_FORMAT) + content.ljust(512 if content else 0, b"\0")


def with_size(archive: bytes, size: bytes) -> bytes:
    """Return a tar file whose first member has another size, and a right checksum."""
    block = bytearray(archive[:512])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + archive[512:]


def objects(canary: Path) -> bytes:
    """Return an array of NumPy's whose values are a pickle with code."""
    file = io.BytesIO()
    np.save(file, np.array([Trap(canary)], dtype=object))
    return file.getvalue()


def parquet(canary: Path) -> Crafted:
    """Parquet files."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    image = seeds.picture()
    pickled = pickle.dumps(Trap(canary))

    def made(columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None, **options: Any) -> bytes:
        file = io.BytesIO()
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table if metadata is None else table.replace_schema_metadata(metadata), file, **options)
        return file.getvalue()

    field = pa.field(
        "image",
        pa.binary(),
        metadata={b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled},
    )
    extended = pa.Table.from_arrays(
        [pa.array([image] * 2), pa.array(["a", "b"])], schema=pa.schema([field, ("label", pa.string())])
    )
    rows = {"image": [image] * 3, "label": ["a", "b", "a"]}
    names = json.dumps({"info": {"features": {"label": {"names": {"0": 3}}}}}).encode()
    found = {
        "an extension type of a pickle": made(extended),
        "names that are none": made(rows, {b"huggingface": names}),
        "deep names": made(rows, {b"huggingface": b"[" * DEEP}),
        "numbers for images": made({"image": [1, 2], "label": ["a", "b"]}),
        "no image": made({"image": [None, image], "label": ["a", "b"]}),
        "paths alone": made({"image": [{"bytes": None, "path": "/etc/hostname"}] * 2, "label": ["a", "b"]}),
        "numbers that are none": made({"image": [image] * 2, "label": [float("nan"), 1.0]}),
        "large labels": made({"image": [image] * 2, "label": [2**62, 0]}),
        "lists for labels": made({"image": [image] * 2, "label": [[1], [2]]}),
        "no rows": made({"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())}),
        "an array of objects": made({"image": [objects(canary)] * 2, "label": ["a", "b"]}),
        "a column twice": made(
            pa.Table.from_arrays([pa.array([image])] * 2 + [pa.array(["a"])], names=["image", "image", "label"])
        ),
    }
    many = {"image": [bytes(2**26)] * 40, "label": ["a", "b"] * 20}  # which a dictionary holds once
    bomb = lambda: {"train.parquet": made(many, compression="zstd", dictionary_pagesize_limit=2**30)}  # noqa: E731
    return {**with_main("train.parquet", found), "one image of 64 MB in 40 rows": bomb}


def table(canary: Path) -> Crafted:
    """CSV files."""
    beside = {f"pictures/{n}.png": seeds.picture() for n in range(4)}
    digits = "9" * 5000
    found = {
        "names that lead elsewhere": b"image,label,split\n../../../etc/hostname,a,train\n/etc/hostname,b,val\n",
        "long numbers": f"image,label,split\n0,{digits},train\n1,1,train\n2,1,val\n".encode(),
        "a long name": b"image,label,split\n" + b"a" * 10_000 + b",a,train\n0,b,val\n",
        "a zero byte": b"image,label,split\npictures/0\0.png,a,train\n0,b,val\n",
        "a wide field": b"image,label,split\n" + b"a" * 200_000 + b",a,train\n",
        "an open quotation": b'image,label,split\n"0,a,train\n1,b,val\n',
        "many columns": b",".join([b"x"] * 50_000) + b"\n0,a\n",
        "a class with a long name": f"image,label,split\n0,{'a' * 100_000},train\n1,b,val\n".encode(),
        "carriage returns": b"image,label,split\r0,a,train\r1,b,train\r2,b,val\r3,a,val",
        "a heading that is a picture": b"0.png,a\n1.png,b\n",
        "a heading of nothing": b",,\n0,a,train\n",
    }
    return with_main("table.csv", found, beside)


def coco(canary: Path) -> Crafted:
    """Boxes in COCO's form."""
    (files,) = seeds.coco()
    name, found = "train.json", {}
    kinds: dict[str, dict[str, Any]] = {
        "images": {
            "file_name": [
                "../../up.png",
                "/etc/hostname",
                "a" * 300,
                "a/" * 3000,
                "\0",
                "\ud800",
                "",
                3,
                "x/../" * 500,
            ],
            "width": [0, -1, 10**400, float("nan"), float("inf"), "3", 2**62, None],
            "id": [2**70, "1", None, True, [1]],
        },
        "annotations": {
            "bbox": [
                [1e308, 1e308, 1e308, 1e308],
                [0, 0, float("nan"), 1],
                "abcd",
                [0, 0, 0, 0],
                [True] * 4,
                [[1]] * 4,
            ],
            "area": [float("nan"), -1, 2**62, "x"],
            "iscrowd": [[], 2, "1"],
            "image_id": [[1], 1.5, None],
            "category_id": [{}, 10**30],
        },
        "categories": {
            "name": ["", "a" * 100_000, None, ["a"], {"a": 1}, "\ud800"],
            "supercategory": [[1], {}],
            "id": [-(2**63), 1.0],
        },
    }
    for part, keys in kinds.items():
        for key, values in keys.items():
            for value in values:
                content = json.loads(files[name])
                content[part][0][key] = value
                found[f"{part} have {key} {str(value)[:20]!r}"] = {**files, name: json.dumps(content).encode()}
    return found | odd_json(name, files)


def voc(canary: Path) -> Crafted:
    """Boxes in Pascal VOC's form."""
    (files,) = seeds.voc()
    good, name = files["Annotations/train_1.xml"].decode(), "Annotations/train_1.xml"
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    found = {
        "entities of entities": f'<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">{entities}]>'
        + good.replace("train_1.png", "&a11;"),
        "an entity of a file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
        + good.replace("train_1.png", "&a;"),
        "an entity of a server": '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">' + good,
        "deep": "<a>" * DEEP + "</a>" * DEEP,
        "a picture elsewhere": good.replace("train_1.png", "../../../etc/hostname"),
        "a long name": good.replace("train_1.png", "a" * 5000),
        "a huge size": good.replace("<width>", "<width>9e307"),
        "a size of digits": good.replace("<width>", "<width>" + "9" * 5000),
        "a size that is none": good.replace("<width>", "<width>nan<x/>"),
        "corners that are none": good.replace("<xmin>", "<xmin>inf<x/>"),
        "another encoding": '<?xml version="1.0" encoding="utf-7"?>' + good,
        "an unknown encoding": '<?xml version="1.0" encoding="x-evil"?>' + good,
    }
    lists = {
        "long": "a" * 5000,
        "elsewhere": "../../etc/hostname",
        "a zero byte": "a\0b",
        "numbers": "train_1 -1\ntrain_2 9",
        "empty": "",
    }
    listed = {f"a list: {about}": {**files, "ImageSets/Main/train.txt": word.encode()} for about, word in lists.items()}
    return with_main(name, {about: word.encode() for about, word in found.items()}, files) | listed


def yolo(canary: Path) -> Crafted:
    """Boxes in YOLO's form."""
    (files,) = seeds.yolo()
    good = files["data.yaml"].decode()
    laughs = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 'x'}]" for n in range(10))
    bombs = {
        "code": f"names: !!python/object/apply:os.mkdir ['{canary}']\n",
        "code by name": "names: !!python/name:os.system\n",
        "code by module": "names: !!python/module:canary\n",
        "a new object": f"names: !!python/object/new:os.mkdir ['{canary}']\n",
        "aliases of aliases": laughs + "\nnames: *a9\ntrain: images/train\nval: images/val\n",
        "aliases as a folder": laughs + "\n" + good.replace("train: images/train", "train: *a9"),
        "aliases as names": good.partition("names:")[0] + laughs + "\nnames: *a9\n",
        "aliases as nc": good + laughs + "\nnc: *a9\n",
        "aliases as a path": laughs + "\n" + good.replace("path: .", "path: *a9"),
        "an alias of itself": "names: &a [*a]\ntrain: images/train\nval: images/val\n",
        "a merge of itself": "names: &a {<<: *a}\n",
        "deep": "names: " + "[" * DEEP,
        "deep lines": "\n".join(" " * n + "a:" for n in range(3000)),
        "a date that is none": good + "date: 2001-13-45\n",
        "digits": good + f"nc: {'9' * 5000}\n",
        "a number of base 60": good + "nc: 190:20:30\n",
        "binary": good + "nc: !!binary ////\n",
        "a set": "names: !!set {a, b}\ntrain: images/train\nval: images/val\n",
        "a timestamp of long digits": good + "x: 2001-01-01 00:00:00.99999999999999999999 +99:99\n",
        "a number that is none": good + "x: 0x\ny: 1e\nz: 0b\n",
        "a key that is a list": good + "? [a]\n: b\n",
        "a long folder": good.replace("train: images/train", f"train: {'a' * 5000}"),
        "a long path": good.replace("path: .", f"path: {'a' * 5000}"),
        "a folder elsewhere": good.replace("train: images/train", "train: ../../../../etc"),
        "a list elsewhere": good.replace("train: images/train", "train: /etc/hostname"),
        "a zero byte": good.replace("train: images/train", 'train: "a\\0b"'),
        "half a character": good.replace("train: images/train", 'train: "\\ud800"'),
        "names of long digits": good.partition("names:")[0] + f"names: {{0: {'9' * 4000}, 1: b}}\n",
    }
    found = with_main("data.yaml", {about: word.encode() for about, word in bombs.items()}, files)
    boxes = {
        "digits": "0 " + "9" * 5000 + " 1 1 1",
        "inf": "inf 1 1 1 1",
        "nan": "nan 1 1 1 1",
        "large": "1e300 0 0 0 0",
        "many": "0 " + "0.5 " * 200_000,
    }
    return found | {f"boxes: {about}": {**files, "labels/train/1.txt": word.encode()} for about, word in boxes.items()}


def png(width: int, height: int, rows: int) -> bytes:
    """Return a gray PNG of zeros whose header says some size, with so many rows."""

    def part(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    described = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    content = zlib.compress(bytes((width + 1) * rows), 1)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", described) + part(b"IDAT", content) + part(b"IEND", b"")


def images(canary: Path) -> Crafted:
    """Images."""
    import tifffile

    def tiff(**options: Any) -> bytes:
        file = io.BytesIO()
        tifffile.imwrite(
            file, np.zeros((5, 4, 4), np.uint8), photometric="minisblack", planarconfig="separate", **options
        )
        return file.getvalue()

    def npy(shape: str, kind: str = "|u1", data: bytes = b"") -> bytes:
        described = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        return b"\x93NUMPY\x01\0" + len(described).to_bytes(2, "little") + described.encode() + data

    found = {
        "objects in an array": objects(canary),
        "a huge array": npy("(1000000, 1000000, 3)"),
        "a large array": npy("(40000, 40000, 3)"),
        "an empty array": npy("(0, 1000000000000, 3)"),
        "an array below 0": npy("(-1, 3)"),
        "code for a shape": npy(f"__import__('os').mkdir('{canary}')"),
        "a deep shape": npy("(" * 50 + "1" + ",)" * 50),
        "code for a dtype": npy("(1,)", f"__import__('os').mkdir('{canary}')"),
        "a record": npy("(1,)", "u1,O"),
        "a large PNG": png(60_000, 60_000, 1),
        "a wide PNG": png(2**31 - 1, 1, 0),
        "a PNG of half its rows": png(1000, 1000, 500),
        "channels of a TIFF, packed": tiff(compression="zlib"),
        "a large sparse TIFF": sparse_tiff(5, 60_000),
        "a sparse TIFF of many channels": sparse_tiff(2000, 2000),
        "a TIFF in a circle": circle_tiff(),
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n("
        + str(canary).encode()
        + b") (w) file\n%%EOF\n",
        "an icon of Windows": b"\xd7\xcd\xc6\x9a" + bytes(200),
        "a pickle": pickle.dumps(Trap(canary)),
    }
    large = lambda: {"image": png(13_000, 13_000, 13_000)}  # noqa: E731
    return {**with_main("image", found), "a PNG of 169 million zeros": large}


def sparse_tiff(channels: int, side: int) -> bytes:
    """Return a small TIFF of many channels, none of whose rows are in the file."""
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 0),
            (277, 3, 1, channels), (278, 4, 1, side), (279, 4, 1, 0), (284, 3, 1, 1)]  # fmt: skip
    body = b"".join(
        k.to_bytes(2, "little") + t.to_bytes(2, "little") + n.to_bytes(4, "little") + v.to_bytes(4, "little")
        for k, t, n, v in tags
    )
    return b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + body + bytes(4)


def circle_tiff() -> bytes:
    """Return a TIFF whose first page is followed by itself."""
    content = bytearray(seeds.picture("tif", "L"))
    start = int.from_bytes(content[4:8], "little")
    end = start + 2 + 12 * int.from_bytes(content[start : start + 2], "little")
    content[end : end + 4] = start.to_bytes(4, "little")
    return bytes(content)


# ---- exported files --------------------------------------------------------------------------------------------------


def odd_metadata() -> dict[str, str]:
    """What exported files may say of themselves."""
    found = {f"metadata {i}": word for i, word in enumerate(odd_texts())}
    changes: dict[str, Any] = {
        "a huge image": {"preprocessing": {**seeds.metadata()["preprocessing"], "image_size": 10**9, "resize": 10**9}},
        "no channels": {"preprocessing": {**seeds.metadata()["preprocessing"], "mean": [], "std": []}},
        "other channels": {"preprocessing": {**seeds.metadata()["preprocessing"], "mean": [0.5] * 4, "std": [0.5] * 4}},
        "another shape": {"input": {**seeds.metadata()["input"], "shape": ["a", "b", "c", "d"]}},
        "a huge batch": {"input": {**seeds.metadata()["input"], "shape": [10**9, 3, 8, 8]}},
        "a batch below 0": {"input": {**seeds.metadata()["input"], "shape": [-1, 3, 8, 8]}},
        "a batch of nothing": {"input": {**seeds.metadata()["input"], "shape": [None, 3, 8, 8]}},
        "a layout that is none": {"input": {**seeds.metadata()["input"], "layout": "x"}},
        "pixels": {"input": {**seeds.metadata()["input"], "layout": "NHWC"}},
        "pixels that it resizes": {"input": {**seeds.metadata()["input"], "layout": "NHWC", "resizes": True}},
        "classes that are none": {"class_names": [1, 2, 3]},
        "other classes": {"class_names": ["a"]},
        "a detector": {"task": "detection"},
        "a detector that scales": {
            "task": "detection",
            "transform": {"min_size": 10**9, "max_size": 10**9, "image_mean": [0], "image_std": [0]},
        },
        "a detector that is none": {
            "task": "detection",
            "class_names": 3,
            "transform": {"min_size": "x", "max_size": 1, "image_mean": 1, "image_std": 1},
        },
        "a source that is none": {"source": 3},
        "held out": {"source": {"held_out": 3}},
    }
    return found | {about: json.dumps(seeds.metadata() | values) for about, values in changes.items()}


def onnx(canary: Path) -> Crafted:
    """ONNX files."""
    import onnx as library
    from onnx import TensorProto, helper

    def changed(change: Callable[[Any], object]) -> bytes:
        model = library.ModelProto()
        model.CopyFrom(seeds.onnx_model())
        change(model)
        return model.SerializeToString()

    def outside(location: str) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            (weight,) = model.graph.initializer
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=location)

        return change

    def shape_of(*dims: int) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            del model.graph.initializer[0].dims[:]
            model.graph.initializer[0].dims.extend(dims)

        return change

    def filled(model: Any) -> None:
        size = helper.make_tensor("size", TensorProto.INT64, [1], [2**33])
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["huge"]))
        model.graph.initializer.append(size)

    found = {
        f"weights in {place[:20]}": changed(outside(place))
        for place in ("../../up", "/etc/hostname", "", "net.onnx", "x" * 5000)
    }
    found |= {
        "a huge weight": changed(shape_of(2**40, 3, 3, 3)),
        "a weight below 0": changed(shape_of(-1, 3, 3, 3)),
        "a huge constant": changed(filled),
        "an operator of another library": changed(lambda m: m.graph.node[0].__setattr__("domain", "evil")),
        "an unknown operator": changed(lambda m: m.graph.node[0].__setattr__("op_type", "Evil")),
        "a circle": changed(lambda m: m.graph.node[0].input.__setitem__(0, "logits")),
        "no output": changed(lambda m: m.graph.ClearField("output")),
        "no input": changed(lambda m: m.graph.ClearField("input")),
        "two inputs": changed(
            lambda m: m.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1]))
        ),
        "an input of texts": changed(
            lambda m: m.graph.input[0].type.tensor_type.__setattr__("elem_type", TensorProto.STRING)
        ),
        "no metadata": changed(lambda m: m.ClearField("metadata_props")),
        "an output of one number": changed(lambda m: m.graph.output[0].__setattr__("name", "features")),
    }
    for about, word in odd_metadata().items():
        found[about] = changed(lambda model, word=word: helper.set_model_props(model, {seeds.KEY: word}))
    return with_main("net.onnx", found)


def openvino(canary: Path) -> Crafted:
    """Graphs of OpenVINO."""
    (files,) = seeds.openvino()
    good = files["net.xml"].decode()
    changes = {
        "a huge offset": ('offset="0"', f'offset="{2**63}"'),
        "an offset below 0": ('offset="0"', 'offset="-8"'),
        "an offset of digits": ('offset="0"', f'offset="{"9" * 5000}"'),
        "a huge size": ('size="324"', f'size="{2**62}"'),
        "a size below 0": ('size="324"', 'size="-1"'),
        "a huge shape": ('shape="3,3,3,3"', 'shape="3000000,3,300000,3"'),
        "a shape below 0": ('shape="3,3,3,3"', 'shape="-3,-3,3,3"'),
        "an operation of an extension": ('type="Convolution"', f'type="{canary}.so"'),
        "another version": ('version="opset1"', 'version="extension"'),
        "an entity of a file": (
            '<?xml version="1.0"?>',
            '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
        ),
        "a huge input": ('shape="1,3,8,8"', 'shape="1000000000,3,8,8"'),
    }
    found = {about: good.replace(*change) for about, change in changes.items()}
    for about, word in odd_metadata().items():
        escaped = word.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        before, _, after = good.partition('<senet value="')
        found[about] = before + '<senet value="' + escaped + after[after.find('"') :] if after else good
    found |= {
        "deep": "<net>" * 10_000,
        "empty": "",
        "entities": good.replace("<net ", "<!DOCTYPE net [<!ENTITY a 'b'>]><net "),
    }
    return with_main("net.xml", {about: word.encode() for about, word in found.items()}, files)


def torch_export(canary: Path) -> Crafted:
    """Archives of torch.export."""
    (files,) = seeds.torch_export()
    content, found = files["net.pt2"], {}
    code = f"__import__('os').mkdir({str(canary)!r})"
    named = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True}
    objects_of_cpp = json.dumps({"config": {"a": named}}).encode()

    def changed(ending: str, change: Callable[[bytes], bytes], more: Mapping[str, bytes] | None = None) -> bytes:
        written = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
            for name in old.namelist():
                inner = old.read(name)
                new.writestr(name, change(inner) if name.endswith(ending) else inner)
            top = old.namelist()[0].partition("/")[0]
            for name, inner in (more or {}).items():
                new.writestr(f"{top}/{name}", inner)
        return written.getvalue()

    def program(change: Callable[[dict[str, Any]], object]) -> bytes:
        def edit(inner: bytes) -> bytes:
            values = json.loads(inner)
            change(values)
            return json.dumps(values).encode()

        return changed("models/model.json", edit)

    for about, word in pickles(canary).items():
        found[f"inputs: {about}"] = changed("sample_inputs/model.pt", lambda _, word=word: word)
        found[f"objects: {about}"] = changed(
            "?", bytes, {"data/constants/custom_obj_0": word, "data/weights/weight_9": word}
        )
        found[f"weights: {about}"] = changed("weights/weight_0", lambda _, word=word: word)
    for about, word in odd_metadata().items():
        found[about] = changed("senet.json", lambda _, word=word: word.encode())
    found |= {
        "guards of code": program(lambda p: p.__setitem__("guards_code", [code])),
        "a size of code": program(
            lambda p: p["range_constraints"].__setitem__("s", {"min_val": 0, "max_val": 9, "expr_str": code})
        ),
        "an operation that loads": program(
            lambda p: p["graph_module"]["graph"]["nodes"][0].__setitem__("target", "torch.load")
        ),
        "an operation that runs": program(
            lambda p: p["graph_module"]["graph"]["nodes"][0].__setitem__("target", "torch.ops.aten.os.system")
        ),
        "verifiers": program(lambda p: p.__setitem__("verifiers", ["os.system"])),
        "another version": program(lambda p: p["schema_version"].__setitem__("major", 99)),
        "a shared library": changed(
            "?", bytes, {"data/aotinductor/model/x.so": b"\x7fELF", "data/aotinductor/model/x.wrapper.so": b"\x7fELF"}
        ),
        "an object of C++": changed(
            "?",
            bytes,
            {
                "data/constants/model_constants_config.json": objects_of_cpp,
                "data/constants/custom_obj_0": pickles(canary)["code in a pickle"],
            },
        ),
    }
    return with_main("net.pt2", found)
