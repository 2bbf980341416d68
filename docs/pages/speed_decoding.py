"""The section of docs/speed.md about decoding images into memory."""

import statistics

from pages.measured import Result, ratios, spread, table

DECODING_HEAD = """
## Decoding into memory

`data.in_memory` reads and decodes a folder of images once. Here in images a second, from files in the system's cache to
pixels of 32x32 or, of photographs, to crops of 224x224, beside a plain loop over PIL and a loop over torchvision's
decoders; `senet / PIL` compares times. The pixels are those that PIL gives: torchvision decodes only JPEG files that
need no scaling. By itself it is as exact, but ignores how a camera was held, and scales otherwise.
"""


def decoding_section(result: Result) -> str:
    """Return the table of what is decoded a second."""
    rows = []
    for one in result["cases"]:
        times = one["milliseconds"]
        rates = [f"{1e3 * one['number'] / statistics.median(of):,.0f}" for of in times.values()]
        title = f"{one['number']:,} {one['format']} files, {one['width']}x{one['height']}"
        rows.append((title, *rates, spread(ratios(times, "senet", "PIL"))))
    return DECODING_HEAD + table(("", *result["cases"][0]["milliseconds"], "senet / PIL"), rows)
