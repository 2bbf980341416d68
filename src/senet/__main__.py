"""`python -m senet`, for torchrun and `accelerate launch`."""

import sys

from senet.cli import main

if __name__ == "__main__":
    sys.exit(main())
