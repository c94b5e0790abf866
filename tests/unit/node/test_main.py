"""A real daemon: how it starts, refuses to start, and stops."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftos.config import Config, Voter

SECRET = "ab" * 32


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def configured(directory: Path, **changes: Any) -> Config:
    """A cluster of one, with its secret in place."""
    secret = directory / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    api, peer = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config = Config(
        cluster="test",
        cluster_id="c1",
        member_id="m1",
        name="n1",
        data_dir=str(directory / "data"),
        secret_file=str(secret),
        voters=(Voter("m1", "n1", peer, f"http://{api}"),),
        peer_address=peer,
        api_address=api,
    )
    return msgspec.structs.replace(config, **changes)


def command(directory: Path, config: Config) -> list[str]:
    file = directory / "member.json"
    file.write_bytes(msgspec.json.encode(config))
    return [sys.executable, "-m", "raftos", "--config", str(file)]


@contextmanager
def daemon(directory: Path, config: Config) -> Iterator[subprocess.Popen[bytes]]:
    """A running daemon that takes writes; killed at the end if the test has not stopped it."""
    log = (directory / "log").open("wb")
    process = subprocess.Popen(command(directory, config), stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 20
        while request(config, "GET", "/readyz")[0] != 200:
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


def request(config: Config, method: str, target: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Status and JSON; (0, None) while nobody answers."""
    connection = http.client.HTTPConnection(config.api_address, timeout=5)
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    try:
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except ConnectionError:
        return 0, None
    finally:
        connection.close()


def refusal(directory: Path, config: Config) -> str:
    """The one sentence with which a daemon refuses to start."""
    ended = subprocess.run(
        command(directory, config), capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 1
    [sentence] = ended.stderr.splitlines()
    return sentence


def test_a_member_serves_stops_cleanly_and_comes_back(tmp_path: Path) -> None:
    """SIGTERM ends it within two seconds, exit code 0; what was acknowledged is there again."""
    config = configured(tmp_path)
    with daemon(tmp_path, config) as process:
        assert request(config, "POST", "/v1/kv/put", {"key": "a", "value": "1"})[0] == 200
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 2
    with daemon(tmp_path, config):
        assert request(config, "GET", "/v1/kv/get?key=a")[1]["value"] == "1"
        status = request(config, "GET", "/v1/status")[1]
        assert [(node["name"], node["state"]) for node in status["nodes"]] == [("n1", "alive")]


def test_the_log_is_json_and_keeps_the_secret(tmp_path: Path) -> None:
    """One object a line; the secret is in none of them."""
    config = configured(tmp_path, log_level="debug")
    with daemon(tmp_path, config):
        request(config, "POST", "/v1/kv/put", {"key": "a", "value": "1"})
    text = (tmp_path / "log").read_text()
    assert all("event" in json.loads(line) for line in text.splitlines())
    assert SECRET not in text


def test_a_running_daemon_keeps_others_away_from_its_data_and_its_port(tmp_path: Path) -> None:
    """The second daemon is told which of the two is in its way."""
    config = configured(tmp_path)
    with daemon(tmp_path, config):
        assert "another daemon" in refusal(tmp_path, config)
        elsewhere = msgspec.structs.replace(config, data_dir=str(tmp_path / "other"))
        assert config.api_address in refusal(tmp_path, elsewhere)
        assert not any((tmp_path / "other").iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"api_address": "0.0.0.0:4001"}, "loopback"),
        ({"secret_file": "missing"}, "secret"),
        ({"data_dir": "/proc/none"}, "data directory"),
        ({"member_id": "m2"}, "m2"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    tmp_path: Path, change: dict[str, str], sentence: str
) -> None:
    """Settings that are wrong are named; nothing is written."""
    assert sentence in refusal(tmp_path, configured(tmp_path, **change))
    assert not (tmp_path / "data").exists()


def test_data_of_another_cluster_and_a_damaged_log_are_left_as_they_are(tmp_path: Path) -> None:
    """The daemon says what is wrong, and not a byte changes."""
    config = configured(tmp_path)
    with daemon(tmp_path, config):
        request(config, "POST", "/v1/kv/put", {"key": "a", "value": "1"})
    other = msgspec.structs.replace(config, cluster_id="c2")
    before = contents(tmp_path / "data")
    assert "c1" in refusal(tmp_path, other)
    assert contents(tmp_path / "data") == before
    segment = max((tmp_path / "data" / "journal").iterdir(), key=lambda file: file.stat().st_size)
    raw = bytearray(segment.read_bytes())
    raw[40] ^= 0xFF
    segment.write_bytes(raw)
    damaged = contents(tmp_path / "data" / "journal")
    assert "journal" in refusal(tmp_path, config)
    assert contents(tmp_path / "data" / "journal") == damaged


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in directory.rglob("*") if file.is_file()}
