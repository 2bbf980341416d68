"""Write the pages: `PYTHONPATH=docs python -m pages`, or `make docs`."""

from pages import PAGES

for path, page in PAGES.items():
    path.write_text(page())
    print(f"Wrote {path}")
