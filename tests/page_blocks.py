"""Blocks of code in the pages of docs, for tests that run one of them with something in another's place."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def block_with(page: str, text: str) -> str:
    """The one block of Python of a page that contains a text."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    (found,) = [block for block in blocks if text in block]
    return found
