"""The page of `--to web` in a browser: opened, given pictures, and what the same pictures are to Python."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from senet.analysis.gates import find_blocks, gate_hooks
from senet.data.reading import read_picture
from senet.data.transforms import eval_transform

RESULT = """
const [name, done] = arguments;
(async () => {
  const { results } = await import(document.querySelector("script[type=module]").src);
  for (let i = 0; i < 1000; i++) {
    const found = results.findLast((result) => result.name === name);
    const problem = document.getElementById("problems").textContent;
    if (found) {
      const { width, height, blended, classes, times } = found;
      const gates = found.gates.map((values) => [...values]), pixels = [...found.pixels];
      done({ width, height, blended, classes, times, gates, pixels, probabilities: [...found.probabilities] });
      return;
    }
    if (problem) return done(problem);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  done("timeout");
})();
"""


def opened(browser, address: str, state: str = "ready") -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    WebDriverWait(browser, 60).until(
        lambda browser: browser.execute_script("return document.documentElement.dataset.state")
    )
    assert browser.execute_script("return document.documentElement.dataset.state") == state, problems(browser)


def problems(browser) -> str:
    return browser.execute_script("return document.getElementById('problems').textContent")


def classified(browser, *files: Path) -> list:
    """Choose files, and return what the page has computed of each."""
    browser.execute_script("document.getElementById('problems').replaceChildren()")
    browser.find_element("id", "files").send_keys("\n".join(map(str, files)))
    browser.set_script_timeout(60)
    return [browser.execute_async_script(RESULT, file.name) for file in files]


def smooth(width: int, height: int, channels: int = 3, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, channels), dtype=np.uint8)
    kind = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    return Image.fromarray(small.squeeze(2) if channels == 1 else small, kind).resize((width, height), 3)


def computed(model, path: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return the pixels, probabilities and gates of a picture as senet computes them, by PyTorch without rewriting."""
    pixels = eval_transform(model.preprocessing)(read_picture(path))
    images = model.preprocessing.build()(read_picture(path))[None]
    blocks, gates = find_blocks(model), {}
    with (
        torch.no_grad(),
        gate_hooks(model, blocks, lambda block, value: gates.__setitem__(block.name, value[0].numpy())),
    ):
        probabilities = model(images).softmax(1)[0].numpy()
    return pixels.permute(1, 2, 0).numpy().ravel(), probabilities, [gates[block.name] for block in blocks]
