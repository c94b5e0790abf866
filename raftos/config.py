"""One frozen configuration for each member, read once and validated with sentences.

A member reads a JSON file (`python -m raftos --config FILE`). Times are milliseconds, sizes bytes.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

from raftos.errors import StartupError

MIN_SNAPSHOT_LOG_BYTES = 1024 * 1024
MIN_SNAPSHOT_INTERVAL_MS = 1_000
MAX_SNAPSHOT_KEEP = 100


class Voter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One member to begin with, or to find the cluster by. The id is minted; addresses are attributes."""

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
    """Those the cluster began with; of a member that joined later, those it finds the cluster by."""
    peer_address: str
    """host:port that peers dial; loopback only until the security issue."""
    api_address: str
    """host:port of the HTTP API; loopback only until the security issue."""
    advertised_peer_address: str | None = None
    """host:port that peers are told to dial, by default `peer_address`; empty: they are told nothing."""
    heartbeat_ms: int = 100
    election_timeout_ms: int = 500
    """A follower that hears nothing for one to two of these starts a pre-vote."""
    request_timeout_ms: int = 10_000
    """How long the API waits for agreement when the request does not say."""
    down_after_ms: int = 5_000
    """A member the leader has not heard from for this long is marked down."""
    joined: bool = False
    """This member came later: its log, not `voters`, tells it who votes."""
    snapshot_log_bytes: int = 64 * 1024 * 1024
    """A snapshot is made when the log has grown by so much since the last one."""
    snapshot_interval_ms: int = 0
    """A snapshot is made at least so often while there is anything new; 0 for never."""
    snapshot_keep: int = 2
    """So many snapshots are kept, the newest ones."""
    lagging_entries: int = 10_000
    """A member further behind the commit index than this ..."""
    lagging_after_ms: int = 10_000
    """... for this long raises the alarm LAGGING."""
    clock_skew_ms: int = 1_000
    """A member whose wall clock differs from the leader's by more raises the alarm CLOCK_SKEW."""
    scan_interval_ms: int = 3_600_000
    """How long the state is left alone between two scans for damage; 0 for none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def told_peer_address(self) -> str:
        """What peers are told to dial; empty for nothing."""
        told = self.advertised_peer_address
        return self.peer_address if told is None else told

    def voter(self, member_id: str) -> Voter | None:
        return next((voter for voter in self.voters if voter.id == member_id), None)


def split_address(address: str) -> tuple[str, int]:
    """`"127.0.0.1:4001"` -> `("127.0.0.1", 4001)`. Raises StartupError with a sentence."""
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or not 0 <= int(port) <= 65535:
        raise StartupError(f"address {address!r} is not host:port; write it like 127.0.0.1:4001")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether `host:port` stays on this machine. Raises StartupError where it is no address."""
    host, _ = split_address(address)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_loopback(setting: str, address: str) -> None:
    if not is_loopback(address):
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
    if config.joined == (config.member_id in ids):
        raise StartupError(_NOT_IN_ITS_PLACE[config.joined].format(config.member_id))
    if not 10 <= config.heartbeat_ms * 3 < config.election_timeout_ms:
        raise StartupError("election_timeout_ms has to be more than three times heartbeat_ms (at least 4 ms)")
    if config.snapshot_log_bytes < MIN_SNAPSHOT_LOG_BYTES:
        raise StartupError(f"snapshot_log_bytes has to be at least {MIN_SNAPSHOT_LOG_BYTES}, which is 1 MiB")
    if config.snapshot_interval_ms != 0 and config.snapshot_interval_ms < MIN_SNAPSHOT_INTERVAL_MS:
        raise StartupError("snapshot_interval_ms has to be 0 (never) or at least 1000, which is one second")
    if not 1 <= config.snapshot_keep <= MAX_SNAPSHOT_KEEP:
        raise StartupError(f"snapshot_keep has to be from 1 to {MAX_SNAPSHOT_KEEP}")
    return config


_NOT_IN_ITS_PLACE = {
    False: "member {!r} is not among the voters; add it to `voters` or correct `member_id`",
    True: "member {!r} joined later, so it is not one of those in `voters` to find the cluster by; "
    "take it out there, or take out `joined`",
}


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
