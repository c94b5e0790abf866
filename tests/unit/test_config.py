"""The settings of a member: what is refused, and what a member that joined later may leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftos.config import validate
from raftos.errors import StartupError
from tests.unit.api.harness import members_config

CONFIG = msgspec.structs.replace(members_config(Path(), ["n1", "n2"], "n1"), api_address="127.0.0.1:1")
OTHER = tuple(voter for voter in CONFIG.voters if voter.name == "n2")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"voters": OTHER}, "not among the voters"),
        ({"joined": True}, "joined later"),
        ({"voters": (*CONFIG.voters, *OTHER)}, "share one id"),
        ({"snapshot_log_bytes": 1024 * 1024 - 1}, "snapshot_log_bytes"),
        ({"snapshot_interval_ms": 999}, "snapshot_interval_ms"),
        ({"snapshot_interval_ms": -1}, "snapshot_interval_ms"),
        ({"snapshot_keep": 0}, "snapshot_keep"),
        ({"snapshot_keep": 101}, "snapshot_keep"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(changes: dict[str, Any], sentence: str) -> None:
    """Before anything is opened."""
    with pytest.raises(StartupError, match=sentence):
        validate(msgspec.structs.replace(CONFIG, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"joined": True, "voters": OTHER},
        {"joined": True, "voters": ()},
        {"snapshot_log_bytes": 1024 * 1024, "snapshot_interval_ms": 1_000, "snapshot_keep": 1},
    ],
)
def test_what_is_right_passes_unchanged(changes: dict[str, Any]) -> None:
    """A member that joined later is not one of the voters it finds the cluster by; there may be none left."""
    config = msgspec.structs.replace(CONFIG, **changes)
    assert validate(config) is config
