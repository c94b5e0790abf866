"""What is remembered of a journal beside the configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import structlog

from raftos.node.begun import Begun
from tests.unit.api.harness import members_config


def test_a_journal_is_remembered_for_its_member_only(tmp_path: Path) -> None:
    """A member that comes after it with the same configuration file, under a new id, begins with nothing."""
    config = members_config(tmp_path / "data", ["n1"], "n1")
    file = tmp_path / "member.json"
    assert not Begun(file, config).is_remembered()
    Begun(file, config).remember()
    assert Begun(file, config).is_remembered()
    for change in ({"member_id": "id-n9"}, {"cluster_id": "another"}):
        successor = Begun(file, msgspec.structs.replace(config, **change))
        assert not successor.is_remembered()
    successor.remember()
    assert successor.is_remembered()
    assert not Begun(file, config).is_remembered()


@pytest.mark.parametrize("in_the_way", ["member.begun", "member.begun.new"])
def test_where_nothing_can_be_remembered_the_member_runs_all_the_same(
    tmp_path: Path, in_the_way: str
) -> None:
    """As with a configuration that is mounted read-only; the log says what is not watched then."""
    (tmp_path / in_the_way / "x").mkdir(parents=True)
    begun = Begun(tmp_path / "member.json", members_config(tmp_path / "data", ["n1"], "n1"))
    with structlog.testing.capture_logs() as logs:
        begun.remember()
    assert not begun.is_remembered()
    assert [entry["event"] for entry in logs] == ["a lost journal would not be noticed"]
