"""`python -m raftos --config FILE` runs one member.

It loads most of raftos, which takes a moment: Ctrl-C ends that too without a traceback, with 130.
"""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from raftos.node.main import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
