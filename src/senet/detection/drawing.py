"""Boxes drawn into pictures, with texts that are legible on any of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""
Line = Literal["solid", "dashed", "dotted"]

COLORS: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
"""Okabe and Ito's, which color-blind readers can tell apart (jfly.uni-koeln.de/color)."""
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
DASHES = {"dashed": (5.0, 3.0), "dotted": (1.5, 2.0)}
"""How long a dash and the gap after it are, in widths of the line."""
SMALLEST_TEXT = 11
"""Height of the smallest text in pixels; larger pictures have larger texts, a fortieth of their longer side."""


@dataclass(frozen=True, kw_only=True)
class DrawnBox:
    """A box to be drawn.

    Args:
        box: where.
        text: above it, or inside where there is no room; empty for none.
        color: of its line and of the ground of its text.
        line: how its line is drawn.
    """

    box: Box
    text: str
    color: Color
    line: Line = "solid"


def class_color(number: int) -> Color:
    """Return the color of a class by its number, from 0; after seven classes the colors come again."""
    return COLORS[number % len(COLORS)]


def draw_boxes(image: Image.Image, boxes: Iterable[DrawnBox]) -> Image.Image:
    """Draw boxes into a copy of a picture, the first on top.

    Every line has a black and a white edge and every text a ground of one color, so that both are seen on any picture.

    Args:
        image: of any mode.
        boxes: in its pixels; what is outside is cut off.

    Returns:
        An RGB picture of the same size.
    """
    drawn = image.convert("RGB")
    if drawn is image:
        drawn = image.copy()
    pen, size = ImageDraw.Draw(drawn), drawn.size
    width = max(2, round(max(size) / 400))
    font = font_of(max(SMALLEST_TEXT, round(max(size) / 40)))
    inside = [(each, clipped(each.box, size)) for each in boxes]
    for each, box in reversed(inside):
        outline(pen, box, each.color, width, each.line)
    taken: list[Box] = []
    for each, box in inside:
        if each.text:
            label(pen, box, each, font, size, taken)
    return drawn


@cache
def font_of(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font of a height in pixels."""
    return ImageFont.load_default(height)


def clipped(box: Box, size: tuple[int, int]) -> Box:
    """Return the part of a box that is inside a picture."""
    (x1, y1, x2, y2), (width, height) = box, size
    x1, x2 = (min(max(x, 0), width - 1) for x in sorted((x1, x2)))
    y1, y2 = (min(max(y, 0), height - 1) for y in sorted((y1, y2)))
    return x1, y1, x2, y2


def outline(pen: ImageDraw.ImageDraw, box: Box, color: Color, width: int, line: Line) -> None:
    """Draw the four sides of a box with a white and a black edge around the line."""
    x1, y1, x2, y2 = box
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    for wider, shade in ((4, WHITE), (2, BLACK), (0, color)):
        for start, end in pairwise(corners):
            for part in dashes(start, end, width, line):
                pen.line(part, shade, width + wider)


def dashes(
    start: tuple[float, float], end: tuple[float, float], width: int, line: Line
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the parts of a side that are drawn; at least the corners, however short it is."""
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])  # it is horizontal or vertical
    if line == "solid" or not length:
        return [(start, end)]
    dash, gap = (2 * width * part for part in DASHES[line])
    count = max(1, round((length - dash) / (dash + gap)))
    step = (length - dash) / count
    parts = []
    for i in range(count + 1):
        ends = (max(0.0, i * step) / length, min(length, i * step + dash) / length)
        a, b = (tuple(s + share * (e - s) for s, e in zip(start, end, strict=True)) for share in ends)
        parts.append(((a[0], a[1]), (b[0], b[1])))
    return parts


def label(
    pen: ImageDraw.ImageDraw,
    box: Box,
    drawn: DrawnBox,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    taken: list[Box],
) -> None:
    """Write the text of a box where it covers no other text, if there is such a place; add the place to `taken`."""
    text = shortened(drawn.text, font, size[0] - 4)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 4
    x1, y1, _, y2 = box
    x = min(max(0.0, x1), max(0, size[0] - width))
    rows = [y1 - height, y1, y2 - height, y2, *(y1 + i * height for i in range(1, 4))]
    places = [(x, y, x + width, y + height) for y in rows if 0 <= y <= size[1] - height]
    places = places or [(x, 0, x + width, height)]
    place = next((each for each in places if not any(overlapping(each, other) for other in taken)), places[0])
    taken.append(place)
    pen.rectangle(place, drawn.color, outline=contrasting(drawn.color))
    pen.text((place[0] + 3 - left, place[1] + 2 - top), text, contrasting(drawn.color), font=font)


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return a text in one line that is at most so wide, its middle left out where it is too long."""
    text = " ".join(text.split())
    kept = len(text)
    cut = text
    while font.getlength(cut) > width and kept > 2:
        kept -= 1
        cut = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return cut


def overlapping(one: Box, other: Box) -> bool:
    """Return whether two boxes have an area in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def contrasting(color: Color) -> Color:
    """Return black or white, whichever has the higher contrast to a color (WCAG 2.2, relative luminance)."""
    red, green, blue = (
        (value / 255 / 12.92) if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in color
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return BLACK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else WHITE


def scaled_box(box: Sequence[float], scale: float) -> Box:
    """Return a box in the pixels of a picture that was made larger or smaller."""
    x1, y1, x2, y2 = (scale * value for value in box)
    return x1, y1, x2, y2
