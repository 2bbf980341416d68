"""The order of the images is a partition, and a function of seed and epoch."""

import numpy as np
import pytest

from senet.data.order import BatchOrder, seed_of


def order(num_images, batch_size, shuffle, **options):
    return BatchOrder(num_images=num_images, batch_size=batch_size, shuffle=shuffle, **options)


def assert_same_batches(result, expected):
    result, expected = list(result), list(expected)
    assert len(result) == len(expected)
    for first, second in zip(result, expected, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 3), (9, 3), (2, 3), (1, 1), (7, 7)])
def test_without_shuffling_every_image_comes_once_and_in_order(num_images, batch_size):
    batches = list(order(num_images, batch_size, shuffle=False).batches(epoch=3))
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(num_images))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches) == len(order(num_images, batch_size, shuffle=False)) == -(-num_images // batch_size)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "even", "expected"),
    [
        (214, 128, False, [107, 107]),
        (129, 128, False, [64, 65]),  # not one of a single image, which BatchNorm could not train on
        (10, 3, False, [2, 3, 2, 3]),
        (9, 3, False, [3, 3, 3]),
        (2, 3, False, [2]),
        (1, 3, False, [1]),
        (214, 128, True, [106, 108]),
        (215, 128, True, [106, 108]),
        (3, 8, True, [2]),
        (62, 3, False, [3] * 20),  # of many batches an incomplete one is left out
        (61, 3, True, [3] * 20),  # whose size is even in a configuration that asks for it
    ],
)
def test_shuffled_images_are_divided_evenly_and_left_out_only_where_they_are_few(
    num_images, batch_size, even, expected
):
    shuffled = order(num_images, batch_size, shuffle=True, even=even)
    batches = list(shuffled.batches(epoch=0))
    assert [len(batch) for batch in batches] == expected
    assert len(shuffled) == len(expected)
    assert shuffled.num_used == sum(expected)
    chosen = np.concatenate(batches)
    assert len(np.unique(chosen)) == len(chosen)
    assert set(chosen) <= set(range(num_images))


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
@pytest.mark.parametrize("even", [False, True])
def test_every_process_has_as_many_images_of_every_batch_and_few_are_left_out(num_processes, even):
    step = num_processes * (2 if even else 1)
    for num_images in range(1, 400, 7):
        parts = [
            order(num_images, 16, shuffle=True, even=even, rank=rank, num_processes=num_processes)
            for rank in range(num_processes)
        ]
        assert len({len(part) for part in parts}) == 1
        sizes = [[len(batch) for batch in part.batches(0)] for part in parts]
        assert all(own == sizes[0] for own in sizes)
        assert not even or all(size % 2 == 0 for size in sizes[0])
        assert all(0 < size <= 16 for size in sizes[0])
        left_out = num_images - sum(map(sum, sizes))
        assert left_out == num_images - parts[0].num_used
        assert left_out < step or left_out < num_images / 20


@pytest.mark.parametrize(
    ("num_images", "batch_size", "text"),
    [
        (214, 128, "214 images make batches of 107, not 128: 2 an epoch"),
        (50_000, 128, "each epoch leaves out 80 of 50,000 images, others every time"),
        (256, 128, ""),
    ],
)
def test_the_summary_says_how_an_epoch_differs(num_images, batch_size, text):
    assert order(num_images, batch_size, shuffle=True).summary() == text


@pytest.mark.parametrize(
    ("num_images", "batch_size", "num_processes"),
    [(1437, 32, 1), (50_000, 128, 1), (50_000, 64, 2), (50_000, 16, 2), (1_281_167, 128, 8), (1_281_167, 32, 8)],
    ids=["digits", "cifar10", "cifar10_shake", "cifar100_shake", "imagenet", "imagenet_release"],
)
def test_recipes_keep_the_steps_of_their_data_sets(num_images, batch_size, num_processes):
    shuffled = order(num_images, batch_size, shuffle=True, num_processes=num_processes)
    assert len(shuffled) == num_images // (batch_size * num_processes)
    assert set(np.diff(shuffled.ends)) == {batch_size * num_processes}


def test_over_the_epochs_every_image_is_left_out_at_times():
    shuffled = order(61, 3, shuffle=True)
    left_out = {int(np.setdiff1d(np.arange(61), np.concatenate(list(shuffled.batches(e))))[0]) for e in range(600)}
    assert left_out == set(range(61))


SHARED = pytest.mark.parametrize(
    ("num_images", "batch_size", "num_processes"), [(24, 4, 3), (27, 4, 3), (6, 4, 3), (245, 4, 3)]
)


def shares_of(num_images, batch_size, num_processes, *, shuffle):
    """The batches of each process."""
    settings = {"shuffle": shuffle, "seed": 7, "num_processes": num_processes}
    return [list(order(num_images, batch_size, rank=rank, **settings).batches(2)) for rank in range(num_processes)]


@SHARED
def test_ranks_partition_each_global_batch(num_images, batch_size, num_processes):
    whole = order(num_images, batch_size * num_processes, shuffle=True, seed=7)
    shares = zip(*shares_of(num_images, batch_size, num_processes, shuffle=True), strict=True)
    for batch, share in zip(whole.batches(2), shares, strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate(share)), np.sort(batch))
        sizes = [len(indices) for indices in share]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size


@SHARED
def test_without_shuffling_each_rank_has_a_row_of_images_so_that_it_reads_few_shards(
    num_images, batch_size, num_processes
):
    own = shares_of(num_images, batch_size, num_processes, shuffle=False)
    for share in zip(*own, strict=True):
        sizes = [len(indices) for indices in share]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size
    rows = [np.concatenate(batches) for batches in own]
    assert all((np.diff(row) == 1).all() for row in rows)
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(num_images))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("start", range(5))
def test_starting_later_is_the_tail(shuffle, start):
    batches = order(14, 4, shuffle, seed=1)
    assert_same_batches(batches.batches(5, start), list(batches.batches(5))[start:])


def test_epochs_and_seeds_differ_and_repeat():
    orders = {
        (seed, epoch): tuple(np.concatenate(list(order(100, 10, shuffle=True, seed=seed).batches(epoch))))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == len(orders)
    assert_same_batches(order(100, 10, True, seed=2).batches(3), order(100, 10, True, seed=2).batches(3))
    assert tuple(np.concatenate(list(order(100, 10, True, seed=2).batches(3)))) == orders[2, 3]


def test_seeds_are_spread_and_stay():
    seeds = {seed_of(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**60
    # What a run of an earlier version drew must be drawn again when it goes on.
    assert seed_of(1, 2) == int(np.random.SeedSequence((1, 2)).generate_state(1, np.uint64)[0]) >> 1
