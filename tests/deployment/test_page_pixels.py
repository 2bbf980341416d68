"""The page's script prepares pictures as senet does, to the last bit: its parts run in Node where it is installed."""

import base64
import io
import json
import shutil
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from senet.data.preprocessing import Preprocessing
from senet.data.reading import read_picture
from senet.data.transforms import as_pixels
from senet.deployment.to_web import PAGE, is_vertical_first

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed, which runs the page's script")

PREPARE = """
const jobs = JSON.parse(require("fs").readFileSync(0, "utf8"));
const answers = jobs.map(({ width, height, pixels, preprocessing, channels }) => {
  const rgba = new Uint8ClampedArray(Buffer.from(pixels, "base64"));
  const rows = (first, count) => rgba.subarray(4 * first * width, 4 * (first + count) * width);
  return [...prepare({ width, height, rows }, preprocessing, channels)];
});
console.log(JSON.stringify(answers));
"""
DECODE = """
(async () => {
  const answers = [];
  for (const file of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
    const picture = await readPNG(new Uint8Array(Buffer.from(file, "base64")));
    answers.push(picture && [picture.width, picture.height, ...picture.rows(0, picture.height)]);
  }
  console.log(JSON.stringify(answers));
})();
"""


def node(program: str, given: object) -> list:
    """Run a program that uses the page's functions."""
    source = "".join((PAGE / name).read_text() for name in ("png.js", "pixels.js"))
    done = subprocess.run([NODE, "-e", source + program], input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def smooth(width: int, height: int, channels: int, seed: int = 0) -> np.ndarray:
    """Random colors that change slowly, with sharp edges."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 5 + 2, width // 5 + 2, channels), dtype=np.uint8)
    large = small.repeat(5, 0).repeat(5, 1)[:height, :width]
    noise = rng.integers(-20, 21, large.shape)
    return np.clip(large + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_scaled_and_cut_as_pillow_does(interpolation, channels):
    sizes = [(433, 301), (301, 433), (32, 32), (31, 700), (9, 5), (256, 256), (1, 1), (1000, 33), (40, 1000)]
    sides = [(32, 32), (32, 37), (21, 24), (48, 48)]
    jobs, expected = [], []
    for i, (width, height) in enumerate(sizes):
        for image_size, resize in sides:
            prepared = Preprocessing(
                image_size=image_size,
                resize=resize,
                mean=(0.5,) * channels,
                std=(1.0,) * channels,
                interpolation=interpolation,
            )
            image = Image.fromarray(smooth(width, height, 3, seed=i))
            steps = v2.Compose(prepared.geometry())
            expected.append(as_pixels(steps(image)).permute(1, 2, 0).numpy())
            description = {
                "image_size": image_size,
                "resize": resize,
                "interpolation": interpolation,
                "vertical_first": is_vertical_first(),
            }
            rgba = encoded(image.convert("RGBA").tobytes())
            job = {"width": width, "height": height, "pixels": rgba, "preprocessing": description, "channels": channels}
            jobs.append(job)
    for job, found, true in zip(jobs, node(PREPARE, jobs), expected, strict=True):
        assert np.array_equal(np.array(found).reshape(true.shape), true), (job["width"], job["height"])


def saved(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", **options)
    return file.getvalue()


def interlaced(pixels: np.ndarray, color: int, depth: int) -> bytes:
    """Write pixels (H, W, C) of 8 or 16 bits as an interlaced PNG, which Pillow cannot write."""
    height, width, _ = pixels.shape
    order = pixels.astype(">u2") if depth == 16 else pixels
    data = b""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for x, y, dx, dy in passes:
        part = order[y::dy, x::dx]
        if part.size:
            data += b"".join(b"\0" + row.tobytes() for row in part)
    chunks = [(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, color, 0, 0, 1]))]
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        out += len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return out


def test_transparent_and_16_bit_png_files_have_the_pixels_that_senet_reads():
    rgba, gray_alpha, rgb = smooth(37, 23, 4), smooth(37, 23, 2), Image.fromarray(smooth(37, 23, 3))
    rng = np.random.default_rng(1)
    deep = rng.integers(0, 65536, (11, 13, 4)).astype(np.uint16)
    one = rgb.convert("1")
    files = [
        saved(Image.fromarray(rgba)),
        saved(Image.fromarray(gray_alpha)),
        saved(rgb, transparency=(1, 2, 3)),
        saved(rgb.convert("L"), transparency=7),
        saved(rgb.convert("P"), transparency=3),
        saved(rgb.quantize(14), transparency=3, bits=4),
        saved(rgb.quantize(3), transparency=1, bits=2),
        saved(one, transparency=0),
        saved(Image.fromarray(deep[..., 0])),
        interlaced(rgba, 6, 8),
        interlaced(rgba[:3, :2], 6, 8),
        interlaced(deep, 6, 16),
        interlaced(deep[..., :2], 4, 16),
        interlaced(deep[..., :1], 0, 16),
        interlaced(deep[..., :3], 2, 16),
    ]
    for i, (content, found) in enumerate(zip(files, node(DECODE, list(map(encoded, files))), strict=True)):
        channels = v2.Compose(Preprocessing(image_size=8, resize=8, mean=(0,) * 3, std=(1,) * 3).color())
        true = np.asarray(channels(read_picture(content)))
        width, height, *pixels = found
        assert (height, width) == true.shape[:2], i
        assert np.array_equal(np.array(pixels).reshape(height, width, 4)[..., :3], true), i


def test_the_browser_decodes_what_it_decodes_exactly():
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb, rgba = Image.fromarray(smooth(9, 8, 3)), Image.fromarray(smooth(9, 8, 4))
    assert node(DECODE, [encoded(saved(rgb)), encoded(saved(rgba, exif=turned))]) == [None, None]
