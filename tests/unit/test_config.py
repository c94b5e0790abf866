"""The settings of a member: what is refused, and what a member that joined later may leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftos.config import split_address, validate
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
        ({"scan_interval_ms": 999}, "scan_interval_ms has to be 0"),
        ({"scan_interval_ms": -1}, "scan_interval_ms has to be 0"),
        ({"request_timeout_ms": 0}, "request_timeout_ms has to be at least 1"),
        ({"down_after_ms": 999}, "down_after_ms has to be at least 1000"),
        ({"lagging_entries": -1}, "lagging_entries has to be at least 0"),
        ({"lagging_after_ms": -1}, "lagging_after_ms has to be at least 0"),
        ({"clock_skew_ms": -1}, "clock_skew_ms has to be at least 0"),
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
        {"scan_interval_ms": 0, "lagging_entries": 0, "lagging_after_ms": 0, "clock_skew_ms": 0},
        {"scan_interval_ms": 1_000, "down_after_ms": 1_000, "request_timeout_ms": 1},
    ],
)
def test_what_is_right_passes_unchanged(changes: dict[str, Any]) -> None:
    """A member that joined later is not one of the voters it finds the cluster by; there may be none left."""
    config = msgspec.structs.replace(CONFIG, **changes)
    assert validate(config) is config


@pytest.mark.parametrize(
    "address",
    [
        "h",
        "h:",
        "h:-1",
        "h: 1",
        "h:65536",
        "h:\u00b2",
        "h:\u0664\u0660",
        pytest.param("h:" + "9" * 5_000, id="long"),
    ],
)
def test_what_is_no_address_is_one_sentence(address: str) -> None:
    """Also where a digit is one to Unicode only, or a number too long for Python."""
    with pytest.raises(StartupError, match="is not host:port"):
        split_address(address)


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:4001", ("127.0.0.1", 4001)), ("[::1]:0", ("::1", 0)), ("h:65535", ("h", 65_535))],
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
