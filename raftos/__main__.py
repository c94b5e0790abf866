"""`python -m raftos --config FILE` runs one member."""

from __future__ import annotations

import sys

from raftos.node.main import main

if __name__ == "__main__":
    sys.exit(main())
