"""Boxes and texts in pictures: where they are, and legible on any ground."""

import numpy as np
import pytest
from PIL import Image

from senet.detection.drawing import COLORS, DrawnBox, class_color, contrasting, dashes, draw_boxes, font_of, shortened


def luminance(color):
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(color) / 255]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", COLORS)
def test_texts_have_the_contrast_that_wcag_asks_for(color):
    assert contrast(color, contrasting(color)) >= 4.5


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), *COLORS])
@pytest.mark.parametrize("line", ["solid", "dashed", "dotted"])
def test_a_box_is_seen_on_any_ground(ground, line):
    image = Image.new("RGB", (200, 160), ground)
    drawn = np.asarray(draw_boxes(image, [DrawnBox(box=(40, 50, 150, 120), text="", color=COLORS[0], line=line)]))
    assert np.asarray(image).reshape(-1, 3).std(0).max() == 0  # the picture that was given is not drawn into
    for profile in (drawn[44:57, 43], drawn[114:127, 43], drawn[53, 34:47], drawn[53, 144:157]):  # across each side
        assert max(contrast(ground, color) for color in profile) >= 3
    assert (drawn[70:100, 60:130] == ground).all()  # the object itself is not covered
    assert (drawn[:40] == ground).all()


def test_the_lines_differ_without_color():
    solid, dashed, dotted = (dashes((0, 0), (100, 0), 2, line) for line in ("solid", "dashed", "dotted"))
    drawn = [sum(end[0] - start[0] for start, end in parts) for parts in (solid, dashed, dotted)]
    assert (len(solid), drawn[0]) == (1, 100)
    assert len(dotted) > len(dashed) > 2
    assert drawn[0] > drawn[1] > drawn[2] > 0
    for parts in (dashed, dotted):  # corners are drawn
        assert parts[0][0] == (0, 0)
        assert parts[-1][1] == pytest.approx((100, 0))
    assert dashes((3, 0), (4, 0), 2, "dashed")[0][0] == (3, 0)
    assert dashes((3, 3), (3, 3), 2, "dotted") == [((3, 3), (3, 3))]


def test_texts_cover_each_other_only_where_there_is_no_room():
    image = Image.new("RGB", (300, 300), (90, 90, 90))
    boxes = [DrawnBox(box=(50, 100, 200, 220), text=f"name {i}", color=COLORS[i]) for i in range(4)]
    drawn = np.asarray(draw_boxes(image, boxes))
    for color in COLORS[:4]:  # each text has its ground
        assert (drawn == color).all(2).sum() > 300
    many = [DrawnBox(box=(0, 0, 299, 20), text="x", color=COLORS[0])] * 30
    draw_boxes(image, many)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_any_mode_and_boxes_outside(mode):
    image = Image.new(mode, (64, 48))
    boxes = [(-20, -20, 500, 500), (70, 60, 90, 80), (10, 10, 10, 10), (30, 30, 5, 5)]
    drawn = draw_boxes(image, [DrawnBox(box=box, text="a long name " * 9, color=COLORS[1]) for box in boxes])
    assert (drawn.mode, drawn.size) == ("RGB", (64, 48))
    assert draw_boxes(Image.new(mode, (1, 1)), [DrawnBox(box=(0, 0, 1, 1), text="x", color=COLORS[1])]).size == (1, 1)


def test_long_names_keep_their_ends():
    font = font_of(12)
    short = shortened("Donaudampfschiff fahrtsgesellschaft\n0.93", font, 120)
    assert font.getlength(short) <= 120
    assert short.startswith("Donau")
    assert short.endswith("0.93")
    assert "…" in short
    assert shortened("cat\t0.9", font, 120) == "cat 0.9"


def test_classes_have_colors():
    assert len({class_color(i) for i in range(7)}) == 7
    assert class_color(7) == class_color(0)
