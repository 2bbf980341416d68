"""The model of training on many GPUs: a row by hand, and beside what others have measured."""

import json

import pytest

from pages.measured import RESULTS
from scaling_model import NETWORKS, Machine, results, row, sum_seconds

SE_RESNET50 = 28_088_024


def test_a_row_by_hand():
    """64 GPUs in 8 machines at 100 Gb/s, 128 images each, float32."""
    found = row(64, NETWORKS[1], 128, SE_RESNET50, 4)
    size = 112_352_096  # bytes: 4 whole buckets of 26,214,400 and one of 7,494,496
    inside = 2 * 7 / 8 * size / 450e9  # 0.437 ms
    between = 2 * 7 / 8 * size / 12.5e9  # 15.729 ms
    delays = 5 * (8.4e-6 + 14 * 3.4e-6 + 6 * 14e-6)  # 0.700 ms: a tree of 8 machines has 2 x 3 of them
    assert found.summing == pytest.approx(inside + between + delays) == pytest.approx(16.866e-3, rel=1e-4)
    assert found.alone == pytest.approx(53.3e-3 / 2)
    backward = 53.3e-3 / 2 * 2 / 3  # 17.767 ms, in which a bucket is full every 4.146 ms and then summed in 3.912 ms
    fourth, last = 4 * 26_214_400 / size * backward + 3.912e-3, 1.218e-3  # so only the last two sums are waited for
    assert found.waiting == pytest.approx(fourth + last - backward, rel=1e-3) == pytest.approx(3.945e-3, rel=1e-3)
    assert found.efficiency == pytest.approx(26.65 / (26.65 + 3.945), rel=1e-3)


def test_gradients_of_bf16_take_half_the_bytes_and_the_same_delays():
    plain, small = (row(1024, NETWORKS[2], 8, SE_RESNET50, size) for size in (4, 2))
    delays = 5 * (8.4e-6 + 14 * 3.4e-6 + 14 * 14e-6)
    assert small.summing - delays == pytest.approx((plain.summing - delays) / 2)


def test_the_last_bucket_is_waited_for_even_if_the_network_is_fast():
    found = row(8, NETWORKS[0], 256, SE_RESNET50, 4)
    assert found.waiting == pytest.approx(sum_seconds(7_494_496, 8, NETWORKS[0]))


@pytest.mark.parametrize(
    ("payload_mb", "measured"), [(16, 255.9e9), (32, 301.3e9), (64, 368.9e9), (128, 414.5e9), (256, 441.9e9)]
)
def test_sums_in_one_machine_beside_those_that_others_have_measured(payload_mb, measured):
    """On 8 H200. Source: github.com/stas00/ml-engineering, network/benchmarks/README.md."""
    assert bandwidth(8, payload_mb << 20, Machine(name="")) == pytest.approx(measured, rel=0.07)


@pytest.mark.parametrize(
    ("payload_mb", "measured", "times"),
    [(16, 71.8e9, 2.17), (32, 142.9e9, 1.49), (128, 260.5e9, 1.14), (1024, 366.0e9, 0.91)],
)
def test_sums_of_four_machines_are_flattered_where_they_are_small(payload_mb, measured, times):
    """On 4 machines of 8 B200, whose NVLink is twice as fast. Source: as above."""
    machines = Machine(name="", inside=900e9)
    assert bandwidth(32, payload_mb << 20, machines) / measured == pytest.approx(times, rel=0.01)


def bandwidth(gpus, size, machine):
    """Return bytes a second of each GPU as NCCL's tests count them."""
    return 2 * (gpus - 1) / gpus * size / sum_seconds(size, gpus, machine)


def test_the_table_of_the_page_is_that_of_the_model():
    written = json.loads((RESULTS / "scaling_model.json").read_text())
    assert written == json.loads(json.dumps(results()))
