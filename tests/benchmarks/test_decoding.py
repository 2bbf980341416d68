"""The benchmark of decoding: its contestants on a few files, and what docs/speed.md says of them."""

from dataclasses import replace

import pytest

import decoding
from pages.speed_decoding import decoding_section


@pytest.mark.parametrize("case", decoding.CASES, ids=lambda case: f"{case.format}-{case.width}")
def test_each_contestant_decodes_the_files(case, tmp_path):
    few = replace(case, number=3)
    times = decoding.measure(few, rounds=1)
    assert times.keys() == decoding.CONTESTANTS.keys()
    paths = decoding.write(few, tmp_path)
    expected, plain, batch = (decode(paths, case.preprocessing) for decode in decoding.CONTESTANTS.values())
    assert expected.equal(plain)
    assert (expected.int() - batch.int()).abs().float().mean() < 3  # lossy, and scaled otherwise


def test_contestants_that_read_other_pixels_are_not_timed(monkeypatch):
    monkeypatch.setattr(decoding, "by_pil", lambda *given: decoding.by_senet(*given).flip(-1))
    with pytest.raises(RuntimeError, match="senet and PIL read other pixels"):
        decoding.measure(replace(decoding.CASES[0], number=2), rounds=1)


def test_the_page_has_images_a_second_and_the_ratio():
    times = {"senet": [500.0, 1000.0, 2000.0], "PIL": [1000.0, 4000.0, 8000.0], "torchvision": [100.0, 100.0, 100.0]}
    case = {"format": "JPEG", "width": 32, "height": 32, "number": 10_000, "milliseconds": times}
    *_, row = decoding_section({"cases": [case]}).splitlines()
    assert row == "| 10,000 JPEG files, 32x32 | 10,000 | 2,500 | 100,000 | 0.25 (0.25 to 0.38) |"
