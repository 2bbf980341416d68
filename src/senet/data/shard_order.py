"""The order of images in shards: every one once, a few shards at a time, as a function of a random generator alone.

The shards are put into a random order, one after the other, and what results is cut into as many rows of equal length
as `streams` says. In each row the images of `mixed` shards at a time are mixed. An epoch takes an image of each row in
turn. So at any time `streams * mixed` shards are being read, and of each nothing is read again later.

Of P processes the one of rank r takes every P-th image from the r-th on: where P divides `streams`, these are whole
rows, and each process reads a P-th of the shards. The order itself does not depend on P.

mosaicml-streaming has the same idea (its canonical nodes), exact at any batch as well; it reads a format of its own and
needs the clients of four clouds, so that only this function is written here.
"""

import numpy as np


def shard_order(shards: np.ndarray, rng: np.random.Generator, *, streams: int, mixed: int) -> np.ndarray:
    """Return an order of images that are in shards.

    Args:
        shards: (N,), the shard that each image is in.
        rng: decides the order.
        streams: rows of shards that are read side by side.
        mixed: shards of a row whose images are mixed.

    Returns:
        (N,) int64, each of 0 to N - 1 once.
    """
    known, place = np.unique(shards, return_inverse=True)
    turn = rng.permutation(len(known))[place]  # of each image, when its shard comes
    in_turn = np.argsort(turn, kind="stable")
    order = np.empty(len(shards), dtype=np.int64)
    longer = len(shards) % streams
    first = 0
    for stream in range(min(streams, len(shards))):
        row = in_turn[first : first + len(shards) // streams + (stream < longer)]
        first += len(row)
        group = (turn[row] - turn[row[0]]) // mixed
        order[stream::streams] = row[np.lexsort((rng.random(len(row)), group))]
    return order
