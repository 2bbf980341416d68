"""Pictures of three classes of different size, which colors tell apart, and the settings of quick runs."""

import numpy as np
from PIL import Image

QUICK = {"data.num_workers": 0, "compute.cpu": True, "compute.fused": "off"}
SIZES = {"cat": 14, "dog": 6, "fox": 5}


def write_pictures(folder, channels=3, sizes=SIZES, side=36):
    """Write noise with more of one channel for each class: files, or arrays where files have no such channels."""
    rng = np.random.default_rng(channels)
    for label, (name, number) in enumerate(sizes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(0, 80, (side, side + 8, channels), dtype=np.uint8)
            pixels[..., label % channels] += np.uint8(60 * label if channels == 1 else 150)
            if channels == 1:
                Image.fromarray(pixels[..., 0]).save(folder / name / f"{i}.png")
            elif channels in (3, 4):
                Image.fromarray(pixels, "RGB" if channels == 3 else "RGBA").save(folder / name / f"{i}.png")
            else:
                np.save(folder / name / f"{i}.npy", pixels)
    return folder
