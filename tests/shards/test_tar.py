"""Tar files of others: what webdataset writes, and what an enemy does."""

import contextlib
import io
import json
import tarfile

import pytest

from senet.errors import SenetError
from senet.shards.samples import Shape
from senet.shards.tar import samples_in

JPG = frozenset({"jpg", "png"})


def tar_of(path, members, closed=True):
    """Write members: (name, content), or TarInfo objects."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member, io.BytesIO(b"\0" * member.size))
            else:
                name, content = member
                described = tarfile.TarInfo(name)
                described.size = len(content)
                archive.addfile(described, io.BytesIO(content))
    return path


def read(path, shape=None):
    with path.open("rb") as file:
        found = samples_in(file, path.stat().st_size, "x.tar", JPG, shape or Shape())
        return [(each.name, path.read_bytes()[each.offset :][: each.size], each.label) for each in found]


def special(name, kind, target=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (("cls", b"7"), 7),
        (("cls", b" 7\n"), 7),
        (("txt", b"red panda"), "red panda"),
        (("json", json.dumps({"label": 3, "caption": "x"}).encode()), 3),
        (("json", b'"cat"'), "cat"),
    ],
)
def test_a_class_is_said_in_any_of_webdataset_s_ways(tmp_path, label, expected):
    path = tar_of(
        tmp_path / "x.tar",
        [("a/1.jpg", b"one"), (f"a/1.{label[0]}", label[1]), ("a/2.jpg", b"two"), (f"a/2.{label[0]}", label[1])],
    )
    assert read(path) == [("a/1.jpg", b"one", expected), ("a/2.jpg", b"two", expected)]


def test_of_several_images_of_a_sample_one_must_be_named(tmp_path):
    path = tar_of(tmp_path / "x.tar", [("1.left.jpg", b"l"), ("1.right.jpg", b"r"), ("1.cls", b"0")])
    assert read(path, Shape(image="right.jpg")) == [("1.right.jpg", b"r", 0)]
    with pytest.raises(SenetError, match=r"has the images left.jpg, right.jpg for '1'; set data.image_column"):
        read(path)


def test_nothing_of_a_hostile_archive_is_written_or_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    folder = tmp_path / "in"
    folder.mkdir()
    members = [
        special("link.jpg", tarfile.SYMTYPE, str(outside)),
        special("hard.jpg", tarfile.LNKTYPE, "/etc/passwd"),
        special("device.jpg", tarfile.CHRTYPE),
        special("pipe.jpg", tarfile.FIFOTYPE),
        special("../folder", tarfile.DIRTYPE),
        ("../../escaped.jpg", b"up"),
        ("../../escaped.cls", b"1"),
        ("/tmp/absolute.jpg", b"root"),
        ("/tmp/absolute.cls", b"0"),
    ]
    path = tar_of(folder / "x.tar", members)
    before = sorted(tmp_path.rglob("*"))
    assert [(content, label) for _, content, label in read(path)] == [(b"up", 1), (b"root", 0)]
    assert sorted(tmp_path.rglob("*")) == before
    assert outside.read_text() == "kept"


@pytest.mark.parametrize("left", [0.3, 0.5, 0.8])
def test_an_archive_cut_short_is_refused(tmp_path, left):
    path = tar_of(
        tmp_path / "x.tar", [part for i in range(30) for part in ((f"{i}.jpg", b"i" * 900), (f"{i}.cls", b"1"))]
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * 30 * 2560)])
    with pytest.raises(SenetError, match=r"x.tar (is cut short|cannot be read)"):
        read(path)


def test_an_archive_cut_at_the_end_of_a_member_is_refused(tmp_path):
    path = tar_of(tmp_path / "x.tar", [("1.jpg", b"i" * 512), ("1.cls", b"1")])
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(SenetError, match="is cut short or damaged at byte 2,048, where no file begins"):
        read(path)


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path):
    path = tar_of(tmp_path / "x.tar", [("1.jpg", b"i" * 512), ("1.cls", b"1"), ("2.jpg", b"j"), ("2.cls", b"1")])
    content = bytearray(path.read_bytes())
    content[2048 + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(SenetError, match="damaged at byte 2,048"):
        read(path)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.cls", b"1")], "has no image, but cls for '1'"),
        ([("1.jpg", b"i"), ("1.json", b"{")], "1.json of x.tar is no text or JSON"),
        ([("1.jpg", b"i"), ("1.json", b'{"kind": 1}')], "set data.label_column, which is 'label'"),
        ([("1.jpg", b"i"), ("1.json", b"[1]")], "does not hold a class"),
        ([("1.jpg", b"i"), ("1.cls", b"\xff")], "is no text or JSON"),
        ([("1.jpg", b"i"), ("1.json", b"[" * 100_000)], "is no text or JSON"),
    ],
)
def test_what_is_no_sample_is_said_in_a_sentence(tmp_path, members, said):
    with pytest.raises(SenetError, match=said):
        read(tar_of(tmp_path / "x.tar", members))


@pytest.mark.parametrize("content", [b"", b"text", b"\0" * 600, b"\xff" * 2000])
def test_what_is_no_tar_file_is_refused_or_empty(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    found = []
    with contextlib.suppress(SenetError):
        found = read(path)
    assert found == []
