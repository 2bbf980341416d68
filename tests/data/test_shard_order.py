"""The order of images in shards: a partition, a function of seed and epoch, and few shards at a time."""

import numpy as np
import pytest

from senet.data.order import BatchOrder
from senet.data.shard_order import shard_order

COUNTS = np.array([40, 13, 1, 77, 40, 40, 39, 40, 40, 52, 8, 40, 40, 40, 40, 40, 61, 40, 40, 40, 9, 33, 40, 40])
SHARDS = np.repeat(np.arange(len(COUNTS)), COUNTS)


def order(shards=SHARDS, batch_size=16, **options):
    options = {"num_images": len(shards), "shuffle": True, "streams": 4, "mixed": 2, "seed": 3} | options
    return BatchOrder(batch_size=batch_size, shards=shards, **options)


@pytest.mark.parametrize("streams", [1, 3, 8, 2000])
@pytest.mark.parametrize("mixed", [1, 4, 100])
def test_every_image_comes_once(streams, mixed):
    found = shard_order(SHARDS, np.random.default_rng(0), streams=streams, mixed=mixed)
    np.testing.assert_array_equal(np.sort(found), np.arange(len(SHARDS)))


def test_orders_of_epochs_and_seeds_differ_and_of_the_same_do_not():
    orders = [order(seed=seed).indices(epoch) for seed in range(3) for epoch in range(3)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert (first == second).mean() < 0.05
    np.testing.assert_array_equal(order().indices(5), order().indices(5))


def test_any_batch_is_a_place_to_go_on_from():
    whole = list(order().batches(2))
    for start in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):
        for first, second in zip(order().batches(2, start), whole[start:], strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_processes(num_processes):
    ranks = [
        list(order(batch_size=16 // num_processes, rank=rank, num_processes=num_processes).batches(1))
        for rank in range(num_processes)
    ]
    for batch, parts in zip(order().batches(1), zip(*ranks, strict=True), strict=True):
        assert set(batch) == set(np.concatenate(parts))
        assert len(batch) == sum(map(len, parts))


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_a_process_opens_its_share_of_the_shards_once(num_processes):
    streams, mixed = 4, 2
    for rank in range(num_processes):
        indices = np.concatenate(list(order(batch_size=4, rank=rank, num_processes=num_processes).batches(0)))
        opened, is_open = 0, []  # as a process that keeps as many open as are mixed
        for shard in SHARDS[indices].tolist():
            if shard not in is_open:
                opened += 1
                is_open.append(shard)
                is_open = is_open[-(mixed + 1) * streams // num_processes :]
        rows = streams // num_processes
        assert opened <= len(COUNTS) / num_processes + 2 * rows
        # In an order without regard to shards, each process would go back to most shards for most images.


def test_images_of_neighboring_shards_are_mixed():
    found = shard_order(SHARDS, np.random.default_rng(0), streams=1, mixed=4)
    runs = 1 + np.count_nonzero(np.diff(SHARDS[found]))
    assert runs > len(SHARDS) / 2  # and not one of each shard


def test_balanced_classes_come_equally_often_and_shards_one_after_the_other():
    labels = (np.arange(len(SHARDS)) % 10 == 0).astype(np.int64)  # a tenth of all
    balanced = order(labels=labels)
    plain = BatchOrder(num_images=len(SHARDS), batch_size=16, shuffle=True, seed=3, labels=labels)
    for epoch in range(2):
        np.testing.assert_array_equal(np.sort(balanced.indices(epoch)), np.sort(plain.indices(epoch)))
        shards = SHARDS[balanced.indices(epoch)][::4]  # of a row
        first = {shard: int(np.argmax(shards == shard)) for shard in np.unique(shards)}
        last = {shard: len(shards) - 1 - int(np.argmax(shards[::-1] == shard)) for shard in np.unique(shards)}
        assert np.median([last[shard] - first[shard] for shard in first]) < len(shards) / 2


def test_repeats_stand_side_by_side():
    found = order(repeats=3).indices(0)
    assert len(found) == len(SHARDS)
    np.testing.assert_array_equal(found[0:-1:3], found[1::3][: len(found[0:-1:3])])
    assert len(np.unique(found)) == -(-len(SHARDS) // 3)


def test_one_image_and_one_shard():
    assert order(np.zeros(1, np.int64)).indices(0).tolist() == [0]
    assert sorted(order(np.zeros(7, np.int64)).indices(0).tolist()) == list(range(7))
