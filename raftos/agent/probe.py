"""How busy this machine is: processor and memory, as psutil sees them.

`sample` is called at intervals by whoever owns the clock; `load` gives the last sample at once, so
asking for the status never waits for a measurement. The processor's figure is the mean since the
sample before.
"""

from __future__ import annotations

import psutil

SAMPLE_INTERVAL_S = 2.0


class Probe:
    def __init__(self) -> None:
        psutil.cpu_percent(interval=None)  # The first call only starts the measurement.
        self._load: dict[str, int | float] = {"tasks_running": 0, "cpu_percent": 0.0, "memory_percent": 0.0}
        self.sample()

    def load(self) -> dict[str, int | float]:
        """`{"tasks_running", "cpu_percent", "memory_percent"}` of the last sample; percent are 0 to 100."""
        return dict(self._load)

    def sample(self) -> None:
        """Measure now; takes some 100 microseconds."""
        self._load = {
            "tasks_running": 0,
            "cpu_percent": psutil.cpu_percent(interval=None),
            "memory_percent": psutil.virtual_memory().percent,
        }
