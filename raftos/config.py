"""One frozen configuration for each member, read once and validated with sentences.

A member reads a JSON file (`python -m raftos --config FILE`). Times are milliseconds, sizes bytes.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

from raftos.errors import StartupError


class Voter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One voting member of the initial configuration. The id is minted; addresses are attributes."""

    id: str
    name: str
    peer_address: str
    endpoint: str


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one member."""

    cluster: str
    """The cluster's name, for people."""
    cluster_id: str
    """The cluster's minted id: a data directory of another cluster is refused."""
    member_id: str
    name: str
    data_dir: str
    secret_file: str
    """A file (mode 0600) with the shared cluster secret, 32 bytes as hex."""
    voters: tuple[Voter, ...]
    peer_address: str
    """host:port that peers dial; loopback only until the security issue."""
    api_address: str
    """host:port of the HTTP API; loopback only until the security issue."""
    heartbeat_ms: int = 100
    election_timeout_ms: int = 500
    """A follower that hears nothing for one to two of these starts a pre-vote."""
    request_timeout_ms: int = 10_000
    """How long the API waits for agreement when the request does not say."""
    down_after_ms: int = 5_000
    """A member the leader has not heard from for this long is marked down."""
    lagging_entries: int = 10_000
    """A member further behind the commit index than this ..."""
    lagging_after_ms: int = 10_000
    """... for this long raises the alarm LAGGING."""
    clock_skew_ms: int = 1_000
    """A member whose wall clock differs from the leader's by more raises the alarm CLOCK_SKEW."""
    scan_interval_ms: int = 3_600_000
    """How long the state is left alone between two scans for damage; 0 for none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def voter(self, member_id: str) -> Voter | None:
        return next((voter for voter in self.voters if voter.id == member_id), None)


def split_address(address: str) -> tuple[str, int]:
    """`"127.0.0.1:4001"` -> `("127.0.0.1", 4001)`. Raises StartupError with a sentence."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise StartupError(f"address {address!r} is not host:port; write it like 127.0.0.1:4001")
    return host.strip("[]"), int(port)


def _require_loopback(setting: str, address: str) -> None:
    host, _ = split_address(address)
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise StartupError(
            f"{setting} {address!r} is not a loopback address; this version listens on loopback only, "
            "so use 127.0.0.1"
        )


def validate(config: Config) -> Config:
    """The same configuration, or StartupError with one sentence for the first thing wrong."""
    _require_loopback("api_address", config.api_address)
    _require_loopback("peer_address", config.peer_address)
    ids = [voter.id for voter in config.voters]
    if len(set(ids)) != len(ids):
        raise StartupError("two voters share one id; every member needs an id of its own")
    if config.member_id not in ids:
        raise StartupError(
            f"member {config.member_id!r} is not among the voters; add it to `voters` or correct `member_id`"
        )
    if not 10 <= config.heartbeat_ms * 3 < config.election_timeout_ms:
        raise StartupError("election_timeout_ms has to be more than three times heartbeat_ms (at least 4 ms)")
    return config


def load(path: Path) -> Config:
    """Read and validate a member's configuration. Raises StartupError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StartupError(f"cannot read the configuration {path}: {error.strerror}") from error
    try:
        return validate(msgspec.json.decode(raw, type=Config))
    except msgspec.MsgspecError as error:
        raise StartupError(f"the configuration {path} is wrong: {error}") from error
