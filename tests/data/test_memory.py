"""Images in memory: the arithmetic by hand, the augmentation against one image at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from senet.data.config import Augmentation
from senet.data.memory import BatchAugmentation, MemoryLoader
from senet.data.order import BatchOrder
from senet.data.preprocessing import Preprocessing

CPU = torch.device("cpu")
RGB = Preprocessing(image_size=6, resize=6, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.5))
EVERYTHING = Augmentation(flip=True, padding=2, cutout=3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape):
    return torch.randn(shape, generator=generator(1))


def augmented(x, **options):
    """Apply random changes to a batch in channels-last memory."""
    change = BatchAugmentation(Augmentation(**options), *x.shape[2:], CPU)
    choices = change.in_batch(change.draw(len(x), generator()))
    return change(x.contiguous(memory_format=torch.channels_last), choices)


def memory_loader(num_images=50, augmentation=EVERYTHING, shuffle=True, batch_size=8, device=CPU, **options):
    images = torch.randint(0, 256, (num_images, 3, 6, 6), generator=generator(2), dtype=torch.uint8)
    order = BatchOrder(num_images=num_images, batch_size=batch_size, shuffle=shuffle, **options)
    return MemoryLoader(images, torch.arange(num_images), order, RGB, augmentation, device)


def assert_same_batches(result, expected):
    result, expected = list(result), list(expected)
    assert len(result) == len(expected) > 0
    for (x, y), (expected_x, expected_y) in zip(result, expected, strict=True):
        assert torch.equal(x, expected_x)
        assert torch.equal(y, expected_y)


def assert_counts_are_uniform(counts, n):
    """Hold the counts of n equally likely outcomes within five standard deviations."""
    p = 1 / len(counts)
    deviation = (n * p * (1 - p)) ** 0.5
    assert (counts - n * p).abs().max() < 5 * deviation


def shifted(x, top, left, flip, padding):
    """Pad, crop, then flip."""
    height, width = x.shape[-2:]
    x = F.pad(x, (padding,) * 4)[..., top : top + height, left : left + width]
    return x.flip(-1) if flip else x


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 4, 6)])
def test_flip_and_crop_against_every_choice(flip, padding, shape):
    n = 4000
    x = noise(n, *shape)
    result = augmented(x, flip=flip, padding=padding)
    offsets = range(2 * padding + 1)
    choices = [(top, left, mirrored) for top in offsets for left in offsets for mirrored in range(1 + flip)]
    matches = torch.stack([(result == shifted(x, *choice, padding)).flatten(1).all(1) for choice in choices])
    assert torch.equal(matches.sum(0), torch.ones(n, dtype=torch.int64)), "not one choice of flip and place an image"
    if len(choices) > 1:
        assert_counts_are_uniform(matches.sum(1), n)


def test_each_image_draws_its_own_place():
    x = noise(1, 3, 6, 6).expand(200, 3, 6, 6)
    assert len({image.numpy().tobytes() for image in augmented(x, flip=True, padding=2)}) > 40


def test_padding_is_zero():
    result = augmented(torch.ones(500, 2, 3, 3), padding=2)
    assert set(result.unique().tolist()) == {0.0, 1.0}
    inside = result.flatten(1).mean(1)
    assert inside.min().item() == pytest.approx(1 / 9)
    assert inside.max().item() == 1.0


@pytest.mark.parametrize("side", [1, 3, 4, 20])
def test_cutout_against_every_center(side):
    n, height, width = 3000, 7, 8
    x = noise(n, 3, height, width)
    before = x.clone()
    result = augmented(x, cutout=side)
    assert torch.equal(x, before)
    matches, shares = [], []
    for row in range(height):
        for column in range(width):
            top, left = row - side // 2, column - side // 2
            expected = x.clone()
            expected[..., max(top, 0) : top + side, max(left, 0) : left + side] = 0
            matches.append((result == expected).flatten(1).all(1))
            shares.append((expected[0, 0] == 0).float().mean().item())
    matches = torch.stack(matches)
    assert matches.any(0).all(), "an image that no clipped square explains"
    assert (result == 0).float().mean().item() == pytest.approx(sum(shares) / len(shares), rel=0.05)
    if side < 7:
        assert_counts_are_uniform(matches.sum(1), n)


@pytest.mark.parametrize("augmentation", [None, Augmentation(flip=True), Augmentation(cutout=2), EVERYTHING])
def test_batches_are_channels_last(augmentation):
    for x, _ in memory_loader(augmentation=augmentation).batches(0):
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_without_options_changes_nothing():
    assert_same_batches(
        memory_loader(augmentation=Augmentation()).batches(0), memory_loader(augmentation=None).batches(0)
    )


def test_normalization_by_hand():
    loader = memory_loader(2, None, shuffle=False)
    loader.images[:] = 0
    loader.images[0, :, 1, 2] = torch.tensor([255, 51, 102])
    ((x, y),) = loader.batches(0)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    # (1 - 0.5) / 0.25, (0.2 - 0.4) / 0.2, (0.4 - 0.3) / 0.5; and the same for black
    torch.testing.assert_close(x[0, :, 1, 2], torch.tensor([2.0, -1.0, 0.2]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x[1, :, 0, 0], torch.tensor([-2.0, -2.0, -0.6]), rtol=1e-5, atol=1e-6)


def test_labels_stay_with_their_images():
    loader = memory_loader(augmentation=None)
    for x, y in loader.batches(4):
        expected = loader.images[y] / 255 - torch.tensor(RGB.mean).view(3, 1, 1)
        torch.testing.assert_close(x, expected / torch.tensor(RGB.std).view(3, 1, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("start", range(8))
def test_starting_later_gives_the_same_batches(start):
    loader = memory_loader()
    assert len(loader) == 7
    tail = list(loader.batches(3))[start:]
    if start < 7:
        assert_same_batches(memory_loader().batches(3, start), tail)
    else:
        assert list(loader.batches(3, start)) == tail == []


def test_augmentation_is_a_function_of_seed_epoch_batch_and_rank():
    def first(epoch=0, **options):
        options = {"shuffle": False, "num_processes": 1, "rank": 0} | options
        return next(iter(memory_loader(**options).batches(epoch)))[0]

    assert torch.equal(first(), first())
    assert not torch.equal(first(), first(epoch=1))
    assert not torch.equal(first(), first(seed=1))
    first, second = (memory_loader(num_processes=2, rank=rank) for rank in (0, 1))
    for loader in (first, second):  # one image throughout, so that only the rank or the batch can make a difference
        loader.images[:] = loader.images[0].clone()
    assert not torch.equal(next(iter(first.batches(0)))[0], next(iter(second.batches(0)))[0])
    first_batch, second_batch, *_ = (x for x, _ in first.batches(0))
    assert not torch.equal(first_batch, second_batch)


def test_reading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(memory_loader().batches(0))
    assert torch.equal(torch.get_rng_state(), before)


class Operators(TorchDispatchMode):
    """Records the operators that run, but for those that only look at a tensor otherwise, and the CPU's tensors."""

    def __init__(self):
        super().__init__()
        self.names, self.from_host = [], []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        self.from_host += [operator.name() for tensor in tensors if tensor.device == CPU]
        if not any(r.alias_info is not None for r in operator._schema.returns):
            self.names.append(operator.name())
        return result


@pytest.mark.parametrize(
    ("augmentation", "most"),
    [(None, 3), (Augmentation(flip=True), 6), (Augmentation(flip=True, padding=2), 7), (EVERYTHING, 11)],
)
def test_a_batch_takes_few_operators_and_nothing_from_the_host(augmentation, most):
    batches = memory_loader(augmentation=augmentation, device=torch.device("meta")).batches(0, start=2)
    next(batches)  # draws and moves an epoch's order and choices
    with Operators() as later:
        x, y = next(batches)
    assert (x.device.type, y.device.type) == ("meta", "meta")
    assert later.from_host == []
    assert 0 < len(later.names) <= most, later.names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_epoch_on_a_gpu_never_waits_for_it():
    device = torch.device("cuda")
    loader, expected = memory_loader(device=device), list(memory_loader().batches(1))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(loader.batches(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (x, y), (expected_x, expected_y) in zip(batches, expected, strict=True):  # the same choices on every device
        torch.testing.assert_close(x.cpu(), expected_x)
        assert torch.equal(y.cpu(), expected_y)
