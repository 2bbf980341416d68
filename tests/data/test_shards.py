"""Data sets in shards are opened from anywhere, and give the images of the folder that they were made of."""

import gzip
import io
import json
import multiprocessing
import os
import pickle
import signal
import tarfile
import time
from dataclasses import replace

import datasets
import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet as pq

from faulty_server import serving
from senet.data import sharding
from senet.data import shards as data_shards
from senet.data.config import DataConfig, ShardConfig
from senet.data.datasets import open_split
from senet.data.division import Division
from senet.data.loading import load_data
from senet.data.preprocessing import Preprocessing
from senet.data.sharding import write_shards
from senet.data.survey import survey
from senet.errors import MissingFileError, SenetError
from senet.shards import sources
from senet.shards.index import INDEX
from small_pictures import SIZES, write_pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of three classes to train on, and one to evaluate on."""
    top = tmp_path_factory.mktemp("pictures")
    write_pictures(top / "train")
    write_pictures(top / "val", sizes={"cat": 3, "dog": 2, "fox": 2})
    return top


@pytest.fixture(scope="module")
def tar(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "tar"
    write_shards(folder, out, megabytes=0.02)
    return out


@pytest.fixture(scope="module")
def parquet(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "parquet"
    write_shards(folder, out, form="parquet", megabytes=0.02)
    return out


@pytest.fixture
def config(tmp_path):
    shards = ShardConfig(cache=tmp_path / "cache", cache_gb=0.01)
    preprocessing = Preprocessing(image_size=32, resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    return DataConfig(dataset="", in_memory=False, num_workers=0, preprocessing=preprocessing, shards=shards)


def pictures(images):
    """The pixels of each image by its name and label."""
    return sorted(
        (images.class_names[label], np.asarray(picture).tobytes())
        for picture, label in map(images.__getitem__, range(len(images)))
    )


def assert_same_pictures(actual, expected):
    assert pictures(actual) == pictures(expected)


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_shards_hold_the_bytes_of_the_folder(folder, form, request, config):
    out = request.getfixturevalue(form)
    for split, part in (("train", "train"), ("eval", "val")):
        images = open_split(replace(config, dataset=str(out)), split)
        assert_same_pictures(images, open_split(replace(config, dataset=str(folder)), split))
        contents = {
            images.name(i).partition(" in ")[0]: content
            for i, (content, _) in enumerate(images.read_image.contents(range(len(images))))
        }
        assert contents == {
            str(file.relative_to(folder / part)): file.read_bytes() for file in (folder / part).rglob("*.png")
        }
    assert not (config.shards.cache).exists()  # local shards are read where they are


def test_the_index_alone_reaches_any_image(tar):
    index = json.loads((tar / INDEX).read_text())
    assert index["class_names"] == ["cat", "dog", "fox"]
    assert sum(shard["images"] for shard in index["shards"] if shard["split"] == "train") == sum(SIZES.values())
    for shard in index["shards"]:
        content = (tar / shard["name"]).read_bytes()
        for offset, size in zip(shard["offsets"], shard["sizes"], strict=True):
            Image.open(io.BytesIO(content[offset : offset + size])).load()


def test_the_same_images_are_held_out_as_of_the_folder(folder, tmp_path, config):
    write_shards(folder / "train", tmp_path / "out", megabytes=0.02)
    held = [
        open_split(replace(config, dataset=str(data), val_fraction=0.3, split_seed=5), "eval").held_out
        for data in (folder / "train", tmp_path / "out")
    ]
    assert sorted(held[0]) == sorted(held[1])
    rest = open_split(replace(config, dataset=str(tmp_path / "out"), val_fraction=0.3, split_seed=5), "train")
    assert len(rest) + len(held[0]) == sum(SIZES.values())


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_a_server_gives_the_same_images_with_its_index_and_by_a_pattern(form, request, config, tmp_path):
    out = request.getfixturevalue(form)
    number = len(list(out.glob("train-*")))
    local = open_split(replace(config, dataset=str(out)), "train")
    with serving(out) as server:
        by_index = open_split(replace(config, dataset=server.address), "train")
        assert_same_pictures(by_index, local)
        pattern = f"{server.address}/train-{{000000..{number - 1:06d}}}.{form}::{server.address}/val-000000.{form}"
        foreign = replace(config, dataset=pattern, shards=ShardConfig(cache=tmp_path / "other", cache_gb=0.01))
        found = open_split(foreign, "train")
        assert [pixels for _, pixels in sorted(pictures(found), key=lambda each: each[1])] == [
            pixels for _, pixels in sorted(pictures(local), key=lambda each: each[1])
        ]
        asked = len(server.requests)
        assert found.class_names == (("0", "1", "2") if form == "tar" else ("cat", "dog", "fox"))
        assert_same_pictures(open_split(foreign, "train"), found)
        assert len(server.requests) == asked  # looked through once
        data_shards.index_once.cache_clear()  # as a new process does
        open_split(foreign, "train")
        assert len(server.requests) == asked + number + 1  # each is asked whether it is the same
        with pytest.raises(
            MissingFileError, match=r"has no senet-shards.json, and an HTTP server lists no files; name"
        ):
            open_split(replace(config, dataset=f"{server.address}/nowhere"), "train")


@pytest.mark.parametrize("tags", [True, False], ids=["tagged", "known by its size"])
def test_a_shard_that_is_replaced_on_its_server_is_looked_through_again(tags, tar, tmp_path, config, caplog):
    """Without an index nothing else tells that the copies and what was found in them are old."""
    served = tmp_path / "served"
    served.mkdir()
    shards = sorted(tar.glob("train-*"))[:2]
    (served / "train-0.tar").write_bytes(shards[0].read_bytes())
    own = {"shards": ShardConfig(cache=tmp_path / "other", cache_gb=0.01)}
    with serving(served) as server:
        server.tags = tags
        foreign = replace(config, dataset=f"{server.address}/train-0.tar", **own)
        before = pictures(open_split(foreign, "train"))
        longer = b"" if tags else bytes(10240)  # empty blocks at the end of a tar file
        (served / "train-0.tar").write_bytes(shards[1].read_bytes() + longer)
        data_shards.index_once.cache_clear()  # as a new process does
        after = pictures(open_split(foreign, "train"))
        assert not {pixels for _, pixels in before} & {pixels for _, pixels in after}
    data_shards.index_once.cache_clear()
    again = pictures(open_split(foreign, "train"))  # what is here is used without the server
    assert again == after
    assert "have been replaced cannot be asked" in caplog.text


def test_a_copy_that_has_been_damaged_in_the_cache_is_made_again(tar, tmp_path, config, caplog):
    """The shard on its server is whole, so that to replace it would not help."""
    cache = tmp_path / "other"
    with serving(tar) as server:
        foreign = replace(config, dataset=f"{server.address}/train-000000.tar", shards=ShardConfig(cache=cache))
        expected = pictures(open_split(foreign, "train"))
        (copy,) = cache.glob("*.shard")
        content = bytearray(copy.read_bytes())
        for offset in range(0, len(content), 512):
            content[offset + 300 : offset + 310] = bytes(10)
        copy.write_bytes(content)
        data_shards.index_once.cache_clear()  # as a new process does
        assert pictures(open_split(foreign, "train")) == expected
    assert f"train-000000.tar in {cache} is damaged, and is made again" in caplog.text
    assert copy.read_bytes() == (tar / "train-000000.tar").read_bytes()


def test_an_object_store_gives_the_same_images(tar, config):
    store = fsspec.filesystem("memory")
    for file in tar.iterdir():
        store.pipe(f"/bucket/{file.name}", file.read_bytes())
    try:
        local = open_split(replace(config, dataset=str(tar)), "train")
        assert_same_pictures(open_split(replace(config, dataset="memory://bucket"), "train"), local)
        store.rm(f"/bucket/{INDEX}")
        found = open_split(replace(config, dataset="memory://bucket/train-*.tar", val_fraction=0.2), "train")
        assert set(found.class_names) == {"0", "1", "2"}
        assert len(open_split(replace(config, dataset="memory://bucket"), "eval")) == 7
    finally:
        store.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("pipe:cat x.tar", "is a command, and data sets run none"),
        ("nowhere/{0..3}.tar", "there is no shard nowhere/0.tar"),
        ("none://bucket/a.tar", "cannot be opened"),
        ("s3://bucket/a.tar", "needs a package more"),
        ("memory://nothing", "memory://nothing has no shards"),
        ("nowhere/*.tar", "matches no shards"),
    ],
)
def test_what_is_no_data_set_is_said_in_a_sentence(config, dataset, said):
    with pytest.raises(SenetError, match=said):
        open_split(replace(config, dataset=dataset), "train")


def test_packed_shards_are_unpacked_into_the_cache(tar, config, tmp_path):
    for file in tar.glob("*.tar"):
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    found = open_split(replace(config, dataset=str(tmp_path)), "train")
    local = open_split(replace(config, dataset=str(tar)), "train")
    assert sorted(pixels for _, pixels in pictures(found)) == sorted(pixels for _, pixels in pictures(local))


def test_hugging_face_reads_our_parquet_and_we_read_theirs(folder, parquet, config, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    theirs = datasets.load_dataset(
        "parquet",
        data_files=[str(file) for file in sorted(parquet.glob("train-*"))],
        split="train",
        cache_dir=str(tmp_path / "hf"),
    )
    assert theirs.features["label"].names == ["cat", "dog", "fox"]
    local = open_split(replace(config, dataset=str(folder)), "train")
    found = sorted((theirs.features["label"].names[row["label"]], np.asarray(row["image"]).tobytes()) for row in theirs)
    assert found == pictures(local)
    theirs.to_parquet(tmp_path / "theirs-0.parquet")
    pq.write_table(pq.read_table(tmp_path / "theirs-0.parquet"), tmp_path / "packed-0.parquet", compression="zstd")
    for name in ("theirs", "packed"):
        ours = open_split(replace(config, dataset=f"{tmp_path}/{name}-{{0..0}}.parquet", val_fraction=None), "eval")
        assert pictures(ours) == found


def test_webdataset_reads_our_shards_and_we_read_theirs(folder, tar, config, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    names = sorted(str(file) for file in tar.glob("train-*"))
    theirs = list(webdataset.WebDataset(names, shardshuffle=False).decode("pil").to_tuple("png", "cls"))
    classes = ("cat", "dog", "fox")
    local = open_split(replace(config, dataset=str(folder)), "train")
    assert sorted((classes[label], np.asarray(picture).tobytes()) for picture, label in theirs) == pictures(local)
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=10, verbose=0) as sink:
        for i, (picture, label) in enumerate(theirs):
            sink.write({"__key__": f"sample/{i:05d}", "png": picture, "json": {"label": classes[label]}})
    found = open_split(replace(config, dataset=str(tmp_path / "train-{000000..000002}.tar")), "train")
    assert_same_pictures(found, local)


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_a_damaged_shard_on_this_machine_is_refused_as_one_from_far_away(folder, tmp_path, config):
    """Of the same size, with an image that can still be decoded."""
    write_shards(folder, tmp_path / "out", megabytes=0.02)
    images = open_split(replace(config, dataset=str(tmp_path / "out")), "val")
    shard = min((tmp_path / "out").glob("val-*"))
    content = shard.read_bytes()
    described = next(
        each for each in json.loads((tmp_path / "out" / INDEX).read_text())["shards"] if each["name"] == shard.name
    )
    damaged = bytearray(content)
    damaged[described["offsets"][1] + described["sizes"][1] - 1] ^= 1
    shard.write_bytes(damaged)
    images[0]
    with pytest.raises(SenetError, match=rf"in {shard} is not what was written, its SHA-256 is another one; copy the"):
        images[1]
    shard.write_bytes(content)  # the remedy
    pictures(open_split(replace(config, dataset=str(tmp_path / "out")), "val"))


def test_a_shard_that_vanishes_or_shrinks_is_said_when_it_is_needed(folder, tmp_path, config):
    write_shards(folder, tmp_path / "out", megabytes=0.02)
    shards = sorted((tmp_path / "out").glob("train-*"))
    images = open_split(replace(config, dataset=str(tmp_path / "out")), "train")
    shards[-1].unlink()
    with pytest.raises(
        MissingFileError, match=rf"the shard {shards[-1]} is not there any more; restore it, then go on"
    ):
        images[len(images) - 1]
    shards[1].write_bytes(shards[1].read_bytes()[:-600])
    with pytest.raises(SenetError, match="according to its index; it is cut short or has been replaced"):
        pictures(images)
    images[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(format="another"),
        lambda index: index.update(version=99),
        lambda index: index["shards"][0].update(name="../../outside.tar"),
        lambda index: index["shards"][0].update(name="/etc/passwd"),
        lambda index: index["shards"][0].update(name="file:x"),
        lambda index: index["shards"][0].update(offsets=[2**63]),
        lambda index: index["shards"][0].update(offsets=[10**9] * index["shards"][0]["images"]),
        lambda index: index["shards"][0].update(sizes=[-1] * index["shards"][0]["images"]),
        lambda index: index["shards"][0].update(labels=[3] * index["shards"][0]["images"]),
        lambda index: index["shards"][0].update(labels="text"),
        lambda index: index["shards"][0].update(names=[1]),
        lambda index: index["shards"][0].update(sha256="none"),
        lambda index: index["shards"][0].pop("split"),
        lambda index: index.update(shards=3),
        lambda index: index["shards"].append(index["shards"][0]),
        lambda index: index.update(class_names=["cat", "cat", "fox"]),
    ],
)
def test_an_index_that_says_what_cannot_be_is_refused(tar, tmp_path, config, change):
    index = json.loads((tar / INDEX).read_text())
    change(index)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(SenetError, match=rf"{INDEX} is no index of shards \(.*\); write it again by senet shard"):
        open_split(replace(config, dataset=str(tmp_path)), "train")


def test_an_index_of_another_kind_of_text_is_refused(tmp_path, config):
    for text in ("", "[1", "[" * 100_000, "null", "3", "[]"):
        (tmp_path / INDEX).write_text(text)
        os.utime(tmp_path / INDEX, (time.time(), len(text)))
        with pytest.raises(SenetError, match="index of shards"):
            open_split(replace(config, dataset=str(tmp_path)), "train")


def test_images_with_and_without_class_are_refused(tmp_path, config):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in (("1.jpg", b"i"), ("1.cls", b"0"), ("2.jpg", b"i")):
            described = tarfile.TarInfo(name)
            described.size = len(content)
            archive.addfile(described, io.BytesIO(content))
    with pytest.raises(SenetError, match="has images without a class, or with a class of another kind"):
        open_split(replace(config, dataset=str(tmp_path / "x.tar")), "eval")


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path, config):
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        for _ in range(20):
            file.write(bytes(2**20))
    assert (tmp_path / "bomb.tar.gz").stat().st_size < 50_000
    with pytest.raises(SenetError, match=r"unpacks to more than the 0.01 GB of the cache; raise data.shards.cache_gb"):
        open_split(replace(config, dataset=str(tmp_path / "bomb.tar.gz")), "eval")
    assert sum(file.stat().st_size for file in config.shards.cache.iterdir()) < 10**7
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "bomb.tar.gz").read_bytes()[:500])
    with pytest.raises(SenetError, match=r"cut.tar.gz cannot be unpacked .*; it is damaged or cut short"):
        open_split(replace(config, dataset=str(tmp_path / "cut.tar.gz")), "eval")


@pytest.mark.parametrize("left", [0, 3, 100, 2000, -1])
def test_parquet_cut_short_is_refused(parquet, tmp_path, config, left):
    (tmp_path / "x-0.parquet").write_bytes((parquet / "train-000000.parquet").read_bytes()[:left])
    with pytest.raises(SenetError, match=r"x-0.parquet cannot be read as parquet"):
        open_split(replace(config, dataset=f"{tmp_path}/x-{{0..0}}.parquet"), "eval")


def test_shards_are_looked_at_and_written_again(tar, tmp_path, config):
    looked = survey(replace(config, dataset=str(tar)))
    assert (looked.num_images, looked.num_decoded, looked.formats) == (32, 32, {"PNG": 32})
    write_shards(tar, tmp_path / "again", form="parquet")
    ours, theirs = (open_split(replace(config, dataset=str(out)), "train") for out in (tmp_path / "again", tar))
    assert_same_pictures(ours, theirs)
    names = [sorted(images.name(i).partition(" in ")[0] for i in range(25)) for images in (ours, theirs)]
    assert names[0] == names[1]


# ---- batches ---------------------------------------------------------------------------------------------------------


def batches(config, epoch, start=0, **options):
    return list(load_data(config, batch_size=5, device=CPU, **options).train.batches(epoch, start))


def test_any_batch_is_a_place_to_go_on_from_also_with_another_reader(tar, config):
    local = replace(config, dataset=str(tar))
    whole = batches(local, 1)
    with serving(tar) as server:
        rest = batches(replace(config, dataset=server.address, num_workers=2), 1, 2)
    for first, second in zip(rest, whole[2:], strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])


def test_two_processes_see_every_image_once_and_share_the_shards(tar, config):
    shards = replace(config.shards, streams=2, mixed=1)
    local = replace(config, dataset=str(tar), shards=shards)
    divisions = [Division(num_replicas=2, num_processes=2, process=process) for process in range(2)]
    orders = [load_data(local, batch_size=5, device=CPU, division=division).train.order for division in divisions]
    seen = [np.concatenate(list(order.batches(0))) for order in orders]
    assert len(np.unique(np.concatenate(seen))) == orders[0].num_used
    opened = [len(np.unique(order.shards[indices])) for order, indices in zip(orders, seen, strict=True)]
    assert sum(opened) <= len(np.unique(orders[0].shards)) + 2


def test_in_memory_and_balanced(tar, config):
    decoded = replace(config, dataset=str(tar), in_memory=True)
    assert sum(len(labels) for _, labels in batches(decoded, 0)) == 25
    labels = torch.cat(
        [
            labels
            for epoch in range(3)
            for _, labels in batches(replace(config, dataset=str(tar)), epoch, balance="sampler")
        ]
    )
    counts = torch.bincount(labels)
    assert counts.max() - counts.min() <= 1


def test_a_reader_can_be_pickled(tar, config):
    images = open_split(replace(config, dataset=str(tar)), "train")
    images[0]
    again = pickle.loads(pickle.dumps(images))
    assert_same_pictures(again, images)


def test_a_small_cache_is_warned_of(tar, config, caplog):
    with serving(tar) as server:
        shards = replace(config.shards, cache_gb=5e-5)
        images = open_split(replace(config, dataset=server.address, shards=shards), "train")
        assert "so that each is copied many times; set it to" in caplog.text
        assert len(pictures(images)) == 25  # slowly


# ---- writing ---------------------------------------------------------------------------------------------------------


def written_slowly(folder, out, number):
    real = sharding.write_json

    def stopping(path, value):
        real(path, value)
        if len(list(out.glob(".*.json"))) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sharding.write_json = stopping
    write_shards(folder, out, megabytes=0.02)


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_writing_that_is_killed_goes_on_and_ends_with_the_same_files(folder, tar, form, tmp_path):
    out = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=written_slowly, args=(folder, out, 2))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / INDEX).exists()
    (out / ".train-000002.tar.99.part").write_bytes(b"half")
    first = (out / "train-000000.tar").stat().st_mtime_ns
    written = write_shards(folder, out, megabytes=0.02)
    assert written.num_kept == 2
    assert (out / "train-000000.tar").stat().st_mtime_ns == first
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in tar.iterdir()
    }


def test_a_damaged_shard_of_a_stopped_writing_is_written_again(folder, tar, tmp_path):
    out = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=written_slowly, args=(folder, out, 2))
    process.start()
    process.join()
    content = bytearray((out / "train-000001.tar").read_bytes())
    content[600] ^= 1
    (out / "train-000001.tar").write_bytes(content)
    assert write_shards(folder, out, megabytes=0.02).num_kept == 1
    assert (out / "train-000001.tar").read_bytes() == (tar / "train-000001.tar").read_bytes()


def test_complete_shards_are_compared_again(folder, tmp_path):
    out = tmp_path / "out"
    write_shards(folder, out, megabytes=0.02)
    write_shards(folder, out, megabytes=0.02)
    with pytest.raises(SenetError, match="holds shards of other images, or written in another way"):
        write_shards(folder, out, megabytes=0.03)
    picture = next(folder.glob("train/*/*"))
    before = picture.read_bytes()
    picture.write_bytes(before + b" ")
    with pytest.raises(SenetError, match="holds shards of other images, or written in another way"):
        write_shards(folder, out, megabytes=0.02)
    picture.write_bytes(before)
    content = bytearray((out / "train-000001.tar").read_bytes())
    content[600] ^= 1
    (out / "train-000001.tar").write_bytes(content)
    with pytest.raises(SenetError, match=r"train-000001.tar is not what was written \(its SHA-256 is another one\)"):
        write_shards(folder, out, megabytes=0.02)


def test_a_folder_of_something_else_is_not_written_to(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SenetError, match=r"is not empty \(it has mine.txt\); name a new folder"):
        write_shards(folder, tmp_path)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    write_pictures(tmp_path / "in")
    (tmp_path / "in" / "cat" / "bad.jpg").write_bytes(b"")
    with pytest.raises(SenetError, match=r"bad.jpg cannot be read"):
        write_shards(tmp_path / "in", tmp_path / "out")


def test_the_order_of_the_data_set_or_that_of_a_seed(folder, tmp_path, config):
    firsts = []
    for name, seed in (("none", None), ("zero", 0), ("one", 1)):
        write_shards(folder, tmp_path / name, seed=seed)
        images = open_split(replace(config, dataset=str(tmp_path / name)), "train")
        firsts.append([images.name(i).partition(" in ")[0] for i in range(len(images))])
    assert firsts[0] == [str(file) for file in sorted(firsts[0])]
    assert firsts[1] != firsts[2]
    assert sorted(firsts[1]) == sorted(firsts[2])


def test_pictures_that_are_no_files_become_png(tmp_path, config):
    write_shards("digits", tmp_path / "out", megabytes=0.5)
    gray = replace(config, preprocessing=Preprocessing(image_size=8, resize=8, mean=(0.5,), std=(0.5,)))
    for split in ("train", "eval"):
        ours, theirs = (open_split(replace(gray, dataset=data), split) for data in (str(tmp_path / "out"), "digits"))
        assert_same_pictures(ours, theirs)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(sources, "DELAY", 0.001)
