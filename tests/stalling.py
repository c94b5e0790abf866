"""`python -m tests.stalling [--seed N] [--longest S] -- PYTEST-ARGUMENTS`: tests on a machine that pauses.

Every now and then one of the processes of the tests is stopped for a moment, as a busy machine does: pytest
itself, one of its workers, or a daemon that they have started. A test that fails then counts on how quick the
machine is, and will fail some day where nobody stops anything.

    python -m tests.stalling -- -n 2 --dist loadfile tests/unit
    python -m tests.stalling --longest 0.4 -- tests --ignore tests/unit

It is for people, not for continuous integration: whether a pause of a second is too much to ask is a
question of judgement.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from contextlib import suppress

import psutil

SHORTEST_S = 0.05
PAUSES = 1.5
"""How much longer, on average, nothing is stopped than something is."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stalling", description="Run tests, with pauses.")
    parser.add_argument("--seed", type=int, default=1, help="which pauses (%(default)s)")
    parser.add_argument("--longest", type=float, default=1.2, metavar="S", help="of a pause (%(default)s)")
    parser.add_argument("arguments", nargs="*", metavar="PYTEST-ARGUMENTS")
    chosen = parser.parse_args()
    choice = random.Random(chosen.seed)
    count = 0
    with subprocess.Popen([sys.executable, "-m", "pytest", *chosen.arguments]) as tests:
        try:
            while tests.poll() is None:
                time.sleep(choice.uniform(0, 2 * PAUSES) * chosen.longest / 2)
                count += stall(psutil.Process(tests.pid), choice, chosen.longest)
        except KeyboardInterrupt:
            tests.wait()
    print(f"{count} pauses of up to {chosen.longest:g} s")
    return tests.returncode


def stall(tests: psutil.Process, choice: random.Random, longest_s: float) -> bool:
    """Stop one process of theirs for a moment; False where there is none that runs."""
    with suppress(psutil.NoSuchProcess):
        family = [tests, *tests.children(recursive=True)]
        victim = choice.choice([each for each in family if "python" in each.name()])
        if victim.status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}:
            return False  # A test has stopped it, or waits for its end.
        victim.suspend()
        try:
            time.sleep(choice.uniform(SHORTEST_S, longest_s))
        finally:
            victim.resume()
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
