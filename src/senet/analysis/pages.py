"""HTML pages: one self-contained file each, made of the templates in `page/`."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from senet.data.channels import to_rgb
from senet.data.images import ImageSplit
from senet.data.reading import naming
from senet.errors import needed_for
from senet.files import PAGE_MARK, check_page, write_output

with needed_for("a page"):
    import plotly.graph_objects as go
    import plotly.offline
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

PAGE = Path(__file__).parent / "page"
THUMBNAIL = 96
"""Largest side of a picture in a page, in pixels."""


def write_page(
    path: Path,
    name: str,
    *,
    title: str,
    facts: Sequence[str],
    provenance: Sequence[str],
    data: Any,
    scripts: Sequence[str] = (),
    **values: Any,
) -> None:
    """Write the page of a template, which extends `page.html`.

    Args:
        path: of the file, .html.
        name: of the template and its script, in `page/`.
        title: of the page.
        facts: what the first line says.
        provenance: what the last line says.
        data: plain values that the script draws.
        scripts: names of further scripts, which come before that of the template.
        values: of the template.

    Raises:
        SenetError: the file cannot be written, or is of something else.
    """
    check_page(path)
    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template(f"{name}.html").render(
        title=title,
        facts=facts,
        provenance=provenance,
        data=data,
        mark=Markup(PAGE_MARK),
        css=Markup((PAGE / "page.css").read_text()),
        js=Markup("".join((PAGE / f"{each}.js").read_text() for each in ("page", *scripts, name))),
        plotly=Markup(plotly.offline.get_plotlyjs()),
        **values,
    )
    write_output(path, page.encode())


def plain(figure: go.Figure) -> Any:
    """Return a figure as plain values."""
    return json.loads(figure.to_json())


def thumbnail(images: ImageSplit, index: int, channels: int) -> str:
    """Return a small picture of an image as a data URI.

    Args:
        images: all images.
        index: the number of the image.
        channels: that the network takes.
    """
    image, _ = images[index]
    with naming(images.name(index)):
        small = to_rgb(image, channels)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_uri(small)


def data_uri(image: Image.Image) -> str:
    """Return a picture as a data URI."""
    file = io.BytesIO()
    kind = "png" if max(image.size) <= 32 else "webp"
    image.save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
