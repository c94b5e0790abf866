"""What the program `raftos` runs first: nothing is imported before Ctrl-C is caught.

Loading the rest takes a tenth of a second or two, in which an impatient person is to see no traceback either.
"""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from raftos_cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
