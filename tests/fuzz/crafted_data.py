"""Images and data sets that are bad on purpose, see `fuzz.crafted`."""

import io
import json
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fuzz import seeds
from fuzz.crafted import DEEP, Crafted, Trap, add, objects, odd_json, with_main, with_values


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
