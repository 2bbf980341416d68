"""Draw the pictures that `senet demo` fine-tunes a network to: leaves of five kinds of trees, lying on the ground.

They are drawn, not photographed, so that they come under this library's license. They have what makes people's own
pictures hard: few of a kind, imbalanced; turned, lit and blurred by chance; colors that say nothing about the kind;
parts of other leaves at the edge. Each is a function of its kind, split and number.

Command: python docs/leaves.py src/senet/pictures
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 48
SCALE = 4  # drawn larger, then reduced: smooth edges
LARGE = SIDE * SCALE
COUNTS = {
    "train": {"oak": 120, "maple": 60, "birch": 36, "willow": 24, "ginkgo": 20},
    "val": {"oak": 60, "maple": 40, "birch": 30, "willow": 20, "ginkgo": 20},
}
Points = list[tuple[float, float]]


def both_sides(half_width: Callable[[float], float], steps: int = 80) -> Points:
    """Return the outline of a leaf from its stalk (0, 0) to its tip (0, 1), given half its width along the way."""
    along = [step / steps for step in range(steps + 1)]
    return [(half_width(t), t) for t in along] + [(-half_width(t), t) for t in reversed(along)]


def oak(rng: np.random.Generator) -> Points:
    """Return the outline of an oak leaf: widest beyond its middle, with round lobes."""
    lobes, depth, width = rng.uniform(3.5, 5), rng.uniform(0.25, 0.5), rng.uniform(0.26, 0.36)

    def half_width(t: float) -> float:
        return width * math.sin(math.pi * t**1.3) ** 0.7 * (1 - depth * (0.5 + 0.5 * math.cos(2 * math.pi * lobes * t)))

    return both_sides(half_width)


def birch(rng: np.random.Generator) -> Points:
    """Return the outline of a birch leaf: widest near its stalk, pointed, with fine teeth."""
    teeth, depth, width = rng.uniform(9, 14), rng.uniform(0.05, 0.2), rng.uniform(0.26, 0.36)

    def half_width(t: float) -> float:
        return width * math.sin(math.pi * t**0.6) ** 0.9 * (1 - depth * (teeth * t % 1))

    return both_sides(half_width)


def willow(rng: np.random.Generator) -> Points:
    """Return the outline of a willow leaf: long, narrow and bent."""
    width, bend = rng.uniform(0.1, 0.2), rng.uniform(-0.3, 0.3)
    outline = both_sides(lambda t: width * math.sin(math.pi * t**0.85))
    return [(x + bend * y * (1 - y), y) for x, y in outline]


def maple(rng: np.random.Generator) -> Points:
    """Return the outline of a maple leaf: five pointed lobes around one center."""
    sharpness, size = rng.uniform(0.9, 1.5), rng.uniform(0.45, 0.58)
    lengths = np.array([0.55, 0.85, 1.0, 0.85, 0.55]) * rng.uniform(0.85, 1.1, 5)
    points: Points = []
    for degrees in range(-150, 151, 3):
        nearest = min(2, max(-2, round(degrees / 58)))
        off = abs(degrees / 58 - nearest)
        radius = size * lengths[nearest + 2] * (1 - 0.62 * min(1.0, 2 * off) ** (1 / sharpness))
        radius *= 1 + 0.06 * (degrees % 12 < 6)
        points.append((radius * math.sin(math.radians(degrees)), 0.42 + radius * math.cos(math.radians(degrees))))
    return [*points, (0.0, 0.25)]


def ginkgo(rng: np.random.Generator) -> Points:
    """Return the outline of a ginkgo leaf: a fan with a wavy edge, often with a notch."""
    half_angle, notch, waves = rng.uniform(45, 75), rng.uniform(0, 0.35), rng.uniform(5, 9)
    points: Points = [(0.0, 0.15)]
    for step in range(61):
        angle = math.radians(half_angle * (step / 30 - 1))
        radius = 0.72 + 0.03 * math.sin(waves * angle * 3)
        radius -= notch * math.exp(-((angle / 0.12) ** 2))
        points.append((radius * math.sin(angle), 0.15 + radius * math.cos(angle)))
    return points


LEAVES = {"oak": oak, "maple": maple, "birch": birch, "willow": willow, "ginkgo": ginkgo}
GREEN, YELLOW, RED, BROWN = (70, 120, 45), (205, 170, 50), (165, 60, 40), (125, 85, 50)
GROUNDS = [(95, 75, 58), (120, 118, 112), (75, 105, 55), (160, 140, 110), (70, 70, 75)]


def leaf_color(rng: np.random.Generator) -> np.ndarray:
    """Return a color between two of the four that leaves of all these trees have in the course of a year, as (3,)."""
    colors = np.array([GREEN, YELLOW, RED, BROWN], float)
    first, second = rng.choice(4, 2, replace=False)
    share = rng.uniform(0, 0.5)
    return (colors[first] * (1 - share) + colors[second] * share) * rng.uniform(0.75, 1.2)


def smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Return noise between -1 and 1 whose spots have a size of `LARGE / cells` pixels, as (LARGE, LARGE)."""
    small = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(small.resize((LARGE, LARGE), Image.Resampling.BICUBIC), float) / 127.5 - 1


def placed(outline: Points, rng: np.random.Generator, size: float, shift: float) -> np.ndarray:
    """Return the outline turned, scaled, squeezed and shifted by chance, in pixels of the large picture, as (N, 2)."""
    angle, squeeze = rng.uniform(0, 2 * math.pi), rng.uniform(0.75, 1.1)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = (np.array(outline) - (0, 0.5)) * (squeeze, 1)
    return (points @ turn.T * size + rng.uniform(-shift, shift, 2) + 0.5) * LARGE


def paint(canvas: np.ndarray, points: np.ndarray, axis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the canvas (LARGE, LARGE, 3) with a leaf on it: its shadow, its colors, its midrib and stalk."""
    mask = Image.new("L", (LARGE, LARGE))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], fill=255)
    shadow = Image.new("L", (LARGE, LARGE))
    shadow.paste(mask, (int(rng.integers(2, 9)), int(rng.integers(2, 9))))
    dark = np.asarray(shadow.filter(ImageFilter.GaussianBlur(4)), float)[..., None] / 255
    canvas = canvas * (1 - rng.uniform(0.2, 0.5) * dark)
    other = leaf_color(rng)
    mix = np.clip(0.3 + 0.5 * smooth_noise(rng, 5), 0, 1)[..., None]
    surface = leaf_color(rng) * (1 - mix) + other * mix + 14 * smooth_noise(rng, 48)[..., None]
    rib = Image.new("L", (LARGE, LARGE))
    start, end = axis
    ImageDraw.Draw(rib).line([*map(tuple, ([*start], [*end]))], fill=160, width=3)
    surface += 60 * np.asarray(rib.filter(ImageFilter.GaussianBlur(1)), float)[..., None] / 255
    inside = np.asarray(mask, float)[..., None] / 255
    return canvas * (1 - inside) + surface * inside


def draw(kind: str, split: str, number: int) -> Image.Image:
    """Draw one picture: the ground, parts of other leaves, and a leaf of the kind."""
    rng = np.random.default_rng([*kind.encode(), *split.encode(), number])
    ground = np.array(GROUNDS[rng.integers(len(GROUNDS))], float) * rng.uniform(0.6, 1.3)
    texture = 25 * smooth_noise(rng, int(rng.integers(6, 20))) + 22 * smooth_noise(rng, int(rng.integers(40, 96)))
    canvas = ground + texture[..., None] * rng.uniform(0.4, 1.2)
    for _ in range(rng.integers(0, 3)):  # parts of other leaves, at the edge
        other = list(LEAVES.values())[rng.integers(len(LEAVES))](rng)
        points = placed([*other, (0.0, 0.0), (0.0, 1.0)], rng, rng.uniform(0.5, 0.9), 0.1)
        points += np.array(((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)))[rng.integers(4)] * LARGE * rng.uniform(0.9, 1.2)
        canvas = paint(canvas, points[:-2], points[-2:], rng)
    points = placed([*LEAVES[kind](rng), (0.0, 0.0), (0.0, 1.0)], rng, rng.uniform(0.6, 0.95), 0.08)
    canvas = paint(canvas, points[:-2], points[-2:], rng)
    light = 1 + rng.uniform(0, 0.35) * smooth_noise(rng, 3)
    pixels = np.clip(canvas * light[..., None] * rng.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(0, 4)))
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def draw_all(folder: Path) -> None:
    """Draw all pictures into `folder`/SPLIT/CLASS/NUMBER.jpg."""
    for split, counts in COUNTS.items():
        for kind, count in counts.items():
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw(kind, split, number).save(folder / split / kind / f"{number:03}.jpg", quality=80)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/leaves.py FOLDER")
    draw_all(Path(sys.argv[1]))
