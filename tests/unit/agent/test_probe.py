"""The load of this machine."""

from __future__ import annotations

from raftos.agent.probe import Probe


def test_the_load_has_its_three_figures_in_range() -> None:
    """The shape that status shows; percent are 0 to 100."""
    probe = Probe()
    probe.sample()
    load = probe.load()
    assert list(load) == ["tasks_running", "cpu_percent", "memory_percent"]
    assert load["tasks_running"] == 0
    assert 0 <= load["cpu_percent"] <= 100
    assert 0 < load["memory_percent"] <= 100


def test_asking_for_the_load_does_not_measure() -> None:
    """The last sample is given, as a copy."""
    probe = Probe()
    probe.load()["tasks_running"] = 7
    assert probe.load()["tasks_running"] == 0
