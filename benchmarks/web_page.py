"""What the page of `senet export --to web` computes of photos, beside Python, and beside a canvas that scales them.

Each photo is prepared three ways in Chromium: by the page's script, and by the browser's own scaling (drawImage with
imageSmoothingQuality "low", the default, and "high"), which pages usually feed to a network. Compared with senet's
pixels: by how many levels of 255 they differ, and what the packaged network (32 pixels, 10 classes) makes of that. The
classes are wrong for most photos; what counts is whether they stay the same.

Command: python benchmarks/web_page.py FOLDER, a folder of JPEG files; it needs Chromium with its driver, and npm.
Cost: half a minute for 100 photos on two CPU cores.
Results: benchmarks/results/web_page.json.
"""

import shutil
import tempfile
import threading
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from selenium import webdriver
from tyro.conf import Positional

import senet
from report import RESULTS, write_results
from senet.data.reading import read_picture
from senet.data.transforms import as_pixels, eval_transform

WAYS = ("page", "canvas, low", "canvas, high")
PREPARED = """
const [url, done] = arguments;
(async () => {
  const page = await import(document.querySelector("script[type=module]").src);
  await page.ready;
  const file = await (await fetch(url)).blob(), bitmap = await createImageBitmap(file);
  const { preprocessing } = await (await fetch("model.json")).json(), side = preprocessing.image_size;
  const result = await page.classify(new File([file], "photo"));
  const ways = [[...result.pixels]];
  const scale = side / Math.min(bitmap.width, bitmap.height);
  const width = bitmap.width * scale, height = bitmap.height * scale;
  for (const quality of ["low", "high"]) {
    const context = Object.assign(document.createElement("canvas"), { width: side, height: side }).getContext("2d");
    context.imageSmoothingQuality = quality;
    context.drawImage(bitmap, (side - width) / 2, (side - height) / 2, width, height);
    ways.push([...context.getImageData(0, 0, side, side).data].filter((_, i) => i % 4 < 3));
  }
  done({ ways, probabilities: [...result.probabilities], times: result.times });
})();
"""


def chromium() -> Any:
    """Start Chromium without a window."""
    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-gpu"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(120)
    return driver


@torch.no_grad()
def main(photos: Annotated[Positional[Path], tyro.conf.arg(metavar="FOLDER")]) -> None:
    """Compare what is computed of each photo of a folder."""
    model = senet.create_model("cifar_se_resnet20", pretrained=True).eval()
    to_pixels, normalized = eval_transform(model.preprocessing), model.preprocessing.normalize()

    def probabilities(pixels: torch.Tensor) -> np.ndarray:
        for step in normalized:
            pixels = step(pixels)
        found: np.ndarray = model(pixels[None]).softmax(1)[0].numpy()
        return found

    rows: dict[str, list[tuple[float, float, float, bool]]] = {way: [] for way in WAYS}
    errors, times, paths = [], [], sorted(photos.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary) / "site"
        senet.export(model, site, to="web")
        (site / "photos").symlink_to(photos.resolve())
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(site)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with closing(server.socket), chromium() as browser:
            browser.get(f"http://localhost:{server.server_port}/")
            for path in paths:
                found = browser.execute_async_script(PREPARED, f"photos/{path.relative_to(photos)}")
                true = as_pixels(to_pixels(read_picture(path)))
                expected = probabilities(true)
                errors.append(float(np.abs(np.array(found["probabilities"]) - expected).max()))
                times.append(found["times"])
                for way, given in zip(WAYS, found["ways"], strict=True):
                    pixels = torch.tensor(given, dtype=torch.uint8).view(*true.shape[1:], 3).permute(2, 0, 1)
                    levels, other = (pixels.int() - true.int()).abs(), probabilities(pixels)
                    difference = float(np.abs(other - expected).max())
                    same = bool(other.argmax() == expected.argmax())
                    rows[way].append((levels.max().item(), levels.float().mean().item(), difference, same))
    measured = {way: summed(rows[way]) for way in WAYS}
    for way, values in measured.items():
        print(f"{way:12} {values}")
    medians = {step: float(np.median([each[step] for each in times])) for step in times[0]}
    print(f"probabilities of the page differ by at most {max(errors):.1e}; {medians} ms")
    results = {"photos": len(paths), "ways": measured, "probabilities_of_page": max(errors), "milliseconds": medians}
    write_results(RESULTS / "web_page.json", results, ("torch", "pillow", "senet", "selenium"))


def summed(rows: list[tuple[float, float, float, bool]]) -> dict[str, float]:
    """Return the largest difference in levels, the mean ones of levels and probability, and how often a class stays."""
    largest, mean, probability, same = map(np.array, zip(*rows, strict=True))
    return {
        "largest_levels": float(largest.max()),
        "mean_levels": float(mean.mean()),
        "mean_probability": float(probability.mean()),
        "same_class": int(same.sum()),
    }


if __name__ == "__main__":
    tyro.cli(main)
