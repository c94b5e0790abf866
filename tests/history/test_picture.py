"""The picture of a violation: well-formed, and it shows what one has to see."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from tests.history.made import overlapping
from tests.history.operations import ABSENT, Read, Window
from tests.history.picture import MOST_CALLS, draw
from tests.history.registers import judge_group

SVG = "{http://www.w3.org/2000/svg}"


def broken_picture(size: int) -> str:
    """A history of the key `a` whose last read is stale."""
    operations = [each for each in overlapping(3, size, unknown=0) if "a" in getattr(each, "writes", {"a"})]
    operations = [each for each in operations if not isinstance(each, Read) or set(each.found) == {"a"}]
    stale = Read(client="client <6>", invoked=size + 5, returned=size + 7, found={"a": ABSENT})
    verdict = judge_group(["a"], [*operations, stale])
    assert verdict.blamed is not None
    assert verdict.blamed.item is stale
    windows = [Window("leader killed", size * 0.9, size + 1), Window("long ago", -50, -40)]
    return draw("a has no order", [*operations, stale], windows, verdict)


def test_it_shows_the_clients_the_faults_and_who_is_blamed() -> None:
    root = ET.fromstring(broken_picture(120))  # noqa: S314 - of our own making
    words = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert {"client <6>", "leader killed", "a has no order"} <= set(words)
    assert "long ago" not in words
    assert any(line.startswith("No order has: read a=absent") for line in words)
    blamed = [element for element in root.iter(f"{SVG}rect") if element.get("class") == "x"]
    assert len(blamed) == 1


def test_it_stays_small() -> None:
    """A long history shows its last calls only."""
    root = ET.fromstring(broken_picture(5_000))  # noqa: S314 - of our own making
    assert len(list(root.iter(f"{SVG}g"))) == MOST_CALLS
