"""Damage to the files of a valid input: to bytes of any kind, and inside of JSON, text, zip and tar files."""

import copy
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

Files = Mapping[str, bytes]
"""The contents of files by their paths in a folder."""
Damage = Callable[[Random, bytes], bytes]
NUMBERS = (
    *(
        b"0",
        b"-1",
        b"1",
        b"1.5",
        b"-0.0",
        b"1e400",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"null",
        b"0x7f",
        b"1_0",
        b"1e309",
    ),
    *(b"255", b"256", b"65536", b"2147483647", b"-2147483648", b"4294967296", b"9223372036854775807"),
    *(b"18446744073709551616", b"9" * 40, b"9" * 5000, b"1e5000", "²".encode(), "٣".encode()),
)
WORDS = (
    *(b"", b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", "ä".encode("latin-1"), "猫".encode(), b"\xed\xa0\x80"),
    *(
        b"../../up",
        b"/abs/olute",
        b"~/home",
        b"C:\\x",
        b"a" * 300,
        b"a/" * 3000,
        b"x" * 200_000,
        b"null",
        b"%s",
        b"{0}",
    ),
    *(
        b"]",
        b"}",
        b'"',
        b"'",
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b"<!--",
        b"&a;",
        b"&#0;",
        b"<![CDATA[",
        b"- *x",
    ),
    *(
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"<a>" * 50_000,
        b"- " * 5000,
        b"true",
        b"2001-13-45",
        b"!!python/name:os.system",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, float("inf"), float("nan"), 2**31, 2**53 + 1, 2**63, 10**18, 10**30),
    *(
        "",
        "x",
        "\0",
        "\ud800",
        "../../up",
        "/abs/olute",
        "a" * 300,
        "a/" * 3000,
        "x" * 100_000,
        "0",
        "nan",
        "ä\u202e\x1b[31m",
    ),
    *([], {}, [[]], [{}], {"": None}, [1, "a", None], {"a": {"b": []}}, [0] * 10_000),
)
LENGTHS = (0, 1, 2, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


def place_in(random: Random, content: bytes) -> int:
    """Return a place in a content; more often one near its ends, where headers are."""
    near = min(len(content), 300)
    return random.choice(
        (random.randrange(len(content) + 1), random.randrange(near + 1), len(content) - random.randrange(near + 1))
    )


# ---- bytes -----------------------------------------------------------------------------------------------------------


def cut(random: Random, content: bytes) -> bytes:
    return content[: place_in(random, content)]


def flipped(random: Random, content: bytes) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(random.choice((1, 1, 3, 30))):
        changed[min(place_in(random, content), len(changed) - 1)] ^= 1 << random.randrange(8)
    return bytes(changed)


def with_a_length(random: Random, content: bytes) -> bytes:
    """Another number where a length may be."""
    size, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    value = random.choice(LENGTHS) % 256**size
    place = place_in(random, content)
    return content[:place] + value.to_bytes(size, order) + content[place + size :]


def swapped(random: Random, content: bytes) -> bytes:
    """Two blocks in the other order."""
    a, b, c = sorted(place_in(random, content) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def doubled(random: Random, content: bytes) -> bytes:
    a, b = sorted(place_in(random, content) for _ in range(2))
    return content[:b] + content[a:b] * random.choice((1, 2, 20)) + content[b:]


def without_a_block(random: Random, content: bytes) -> bytes:
    a, b = sorted(place_in(random, content) for _ in range(2))
    return content[:a] + content[b:]


def with_a_word(random: Random, content: bytes) -> bytes:
    place, over = place_in(random, content), random.choice((0, 0, 1, 8))
    return content[:place] + random.choice(WORDS) + content[place + over :]


def with_a_number(random: Random, content: bytes) -> bytes:
    """Another number in place of one that is written in digits."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:200_000]))
    if not found:
        return with_a_length(random, content)
    match = random.choice(found)
    return content[: match.start()] + random.choice(NUMBERS) + content[match.end() :]


BYTES: tuple[Damage, ...] = (
    cut,
    flipped,
    flipped,
    with_a_length,
    with_a_length,
    swapped,
    doubled,
    without_a_block,
    with_a_word,
)


# ---- text ------------------------------------------------------------------------------------------------------------


def with_other_lines(random: Random, content: bytes) -> bytes:
    """A line is missing, there twice, elsewhere, or has another word."""
    lines = content.split(b"\n")
    place = random.randrange(len(lines))
    line, how = lines.pop(place), random.randrange(4)
    if how == 1:
        lines[place:place] = [line] * random.choice((2, 2, 1000))
    elif how == 2:
        lines.insert(random.randrange(len(lines) + 1), line)
    elif how == 3:
        words = re.split(rb"([,;\s<>=:\"/])", line)
        words[random.randrange(len(words))] = random.choice((*WORDS, *NUMBERS))
        lines.insert(place, b"".join(words))
    return b"\n".join(lines)


def in_another_encoding(random: Random, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(random.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp500")), "replace")


TEXT: tuple[Damage, ...] = (
    with_a_number,
    with_a_number,
    with_other_lines,
    with_other_lines,
    with_a_word,
    in_another_encoding,
    *BYTES,
)


# ---- JSON ------------------------------------------------------------------------------------------------------------


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value inside a value."""
    found = []
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += [(value, key), *nodes(value[key])]
    return found


def with_another_value(random: Random, content: bytes) -> bytes:
    """A value of JSON is another one, missing, there twice under a key, or where another was."""
    try:
        value = json.loads(content)
        places = nodes(value)
    except (ValueError, RecursionError):
        return random.choice(TEXT)(random, content)
    if not places or random.random() < 0.02:
        return json.dumps(random.choice(VALUES)).encode()
    (home, key), how = random.choice(places), random.randrange(8)
    if how < 4:
        home[key] = random.choice(VALUES)
    elif how == 4:
        del home[key]
    elif how == 5:
        other, place = random.choice(places)
        home[key] = copy.deepcopy(other[place])
    elif how == 6 and isinstance(home, dict):
        home[random.choice(("", "x", "__class__", str(key) + " ", "a" * 300))] = home.pop(key)
    elif isinstance(home, list):
        home.append(copy.deepcopy(home[key]))
    text = json.dumps(value)
    if how == 7 and isinstance(home, dict):  # the same key twice
        named = json.dumps(key) + ":"
        text = text.replace(named, f"{named} {json.dumps(random.choice(VALUES))}, {named}", 1)
    return text.encode()


JSON: tuple[Damage, ...] = (*[with_another_value] * 12, *TEXT)


# ---- archives --------------------------------------------------------------------------------------------------------


def inside_a_zip(random: Random, content: bytes) -> bytes:
    """A file within a zip file is damaged, missing, there twice, compressed, or called otherwise."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    except Exception:  # it is damaged already
        return random.choice(BYTES)(random, content)
    place, how = random.randrange(len(entries)), random.randrange(8)
    entry, inner = entries[place]
    name, method = entry.filename, zipfile.ZIP_STORED
    if how < 4:
        inner = damaged(random, name, inner)
    elif how == 4:
        name = random.choice(
            ("../up", "/abs/olute", "a" * 300, "", name + "/", name.partition("/")[0], "../" * 9 + name)
        )
    elif how == 5:
        method = zipfile.ZIP_DEFLATED
    elif how == 6:
        other = random.choice(entries)[1]
        inner = other
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for i, (each, stored) in enumerate(entries):
            if i != place:
                archive.writestr(each, stored)
            elif how != 7:
                archive.writestr(zipfile.ZipInfo(name), inner, method)
    return written.getvalue()


def inside_a_tar(random: Random, content: bytes) -> bytes:
    """A file within a tar file is of another kind, size or name, or damaged."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            entries = [(entry, archive.extractfile(entry).read()) for entry in archive if entry.isreg()]
    except Exception:  # it is damaged already
        return random.choice(BYTES)(random, content)
    if not entries:
        return random.choice(BYTES)(random, content)
    place, how = random.randrange(len(entries)), random.randrange(7)
    entry, inner = entries[place]
    if how < 2:
        inner = damaged(random, entry.name, inner)
        entry.size = len(inner)
    elif how == 2:
        entry.name = random.choice(
            ("../up.png", "/abs/olute.png", "a" * 300, "no dot", ".", "a/../b.cls", "é\udcff.png", "0.cls")
        )
    elif how == 3:
        entry.type, entry.linkname = random.choice(b"123456789gxLKSVDMNA\0").to_bytes(), "../../up"
    elif how == 4:
        key = random.choice(
            ("size", "path", "mtime", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major", "hdrcharset", "x")
        )
        entry.pax_headers = {key: random.choice(("-1", "0", "9" * 20, "9" * 5000, "1,2,3", "x", "../up", "1e9", ""))}
    elif how == 5:
        entries.insert(random.randrange(len(entries)), entries.pop(place))
    written = io.BytesIO()
    try:
        with tarfile.open(
            fileobj=written, mode="w", format=random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        ) as archive:
            for i, (each, stored) in enumerate(entries):
                if not (how == 6 and i == place):
                    archive.addfile(each, io.BytesIO(stored))
    except (ValueError, UnicodeError, OSError):
        return random.choice(BYTES)(random, content)
    return written.getvalue()


def of_safetensors(random: Random, content: bytes) -> bytes:
    """The header of a safetensors file says something else."""
    size = int.from_bytes(content[:8], "little")
    if size > len(content):
        return random.choice(BYTES)(random, content)
    header = random.choice(JSON)(random, content[8 : 8 + size])
    for kind in ("F8_E4M3", "BF16", "I64", "BOOL", "F4", "C64", "U16"):
        if random.random() < 0.03:
            header = header.replace(b'"F32"', f'"{kind}"'.encode(), 1)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


# ---- whole inputs ----------------------------------------------------------------------------------------------------

BY_ENDING: Mapping[str, tuple[Damage, ...]] = {
    **dict.fromkeys((".json",), JSON),
    **dict.fromkeys((".jsonl", ".yaml", ".xml", ".csv", ".tsv", ".txt", ".cls"), TEXT),
    **dict.fromkeys((".pth", ".pt", ".pt2"), (*[inside_a_zip] * 12, *BYTES)),
    ".safetensors": (*[of_safetensors] * 12, *BYTES),
    ".tar": (*[inside_a_tar] * 12, *BYTES),
}


def damaged(random: Random, name: str, content: bytes) -> bytes:
    """Return a content with one damage that suits its kind."""
    kinds = BY_ENDING.get(name[name.rfind(".") :] if "." in name else "", BYTES)
    return random.choice(kinds)(random, content)


def mutated(random: Random, files: Files, main: str) -> tuple[str, Files]:
    """Return what was done, and an input with one to four damages, most of them to its main file."""
    found, done = dict(files), []
    for _ in range(random.choice((1, 1, 2, 4))):
        name = main if random.random() < 0.8 else random.choice(sorted(found))
        found[name] = damaged(random, name, found[name])
        done.append(name)
    return f"{' and '.join(dict.fromkeys(done))} damaged", found
