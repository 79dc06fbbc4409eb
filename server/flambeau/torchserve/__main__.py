"""`python -m flambeau.torchserve`."""

from __future__ import annotations

import sys

from flambeau.torchserve.command import main

if __name__ == "__main__":
    sys.exit(main())
