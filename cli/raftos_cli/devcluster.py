"""A local cluster of real daemons: its files, its ports and its processes.

    DIRECTORY/
        cluster.json     the record: ids, addresses, and pid and start time of each daemon
        secret           the shared secret, 32 bytes as hex, mode 0600
        n1/member.json   the configuration of one daemon
        n1/member.log    its stdout and stderr
        n1/data/         its journal and its state
        n4/joining.json  a member that has not joined yet (joining.py)
        n4-ID/           what a member left that was removed

Rules. A process is ours only if its pid, its start time and its command line all match the record, so
that a pid the system has given to somebody else is never signalled. Ids are minted once; addresses are
attributes: a cluster that starts again keeps its ports where they are still free. The record is written
after every process that is started, so that whatever happens next, `stop` finds it. A member that once
had data is never started without: under its old id it would have forgotten what it promised.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from raftos.config import Config, Voter
from raftos.durable import DRAFT, make_folder, write_file, write_json
from raftos.errors import Conflict, InvalidInput, NotFound, StartupError

State = Literal["running", "paused", "dead", "removed"]
"""`removed`: it does not run, and would not start again, as it belongs to the cluster no more."""

FORMAT = 1
RECORD = "cluster.json"
SECRET_BYTES = 32
HEX = re.compile(rb"[0-9a-f]{0,64}")
"""A secret, or as much of it as was written."""
LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 30_000)
"""Below the range from which the system takes the ports of outgoing connections (32768 on Linux): a
dead member's port taken there could even be dialled by a peer from itself, and seem alive."""
START_TIME_TOLERANCE_S = 2.0
"""The system derives start times from its clock, so they move a little when the clock is corrected."""
STOP_GRACE_S = 5.0
POLL_S = 0.02


class Member(msgspec.Struct):
    """One daemon of the record. `pid` and `started_s` (seconds since 1970) are None while it is stopped."""

    id: str
    name: str
    api_port: int
    peer_port: int
    pid: int | None = None
    started_s: float | None = None
    joined: bool = False
    """It came later: the cluster tells it who votes."""
    removed: bool = False
    """The others went on without it (`dev recover`), and it may not know."""
    begun: bool = False
    """It had data, and may have promised something: it never starts with an empty directory again."""

    @property
    def number(self) -> int:
        return int(self.name.removeprefix("n"))

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.api_port}"


class Record(msgspec.Struct):
    """What `cluster.json` holds."""

    cluster: str
    cluster_id: str
    members: list[Member]
    format: int = FORMAT
    left: list[str] = []
    """The folders of members that were removed."""
    restoring: bool = False
    """Not every member has been given the state of the snapshot it is to begin with."""


class DevCluster:
    """The cluster of one directory."""

    def __init__(self, directory: Path, record: Record) -> None:
        self.directory = directory
        self.record = record
        self._children: list[subprocess.Popen[bytes]] = []

    @classmethod
    def create(cls, directory: Path, size: int, *, restoring: bool = False) -> DevCluster:
        """A new cluster of `size` members in an unused or missing directory. Raises InvalidInput."""
        make_private_directory(directory)
        if not is_unused(directory):
            raise InvalidInput(f"{directory} is not empty and holds no dev cluster; name another directory")
        members = [Member(secrets.token_hex(8), f"n{number}", 0, 0) for number in range(1, size + 1)]
        cluster = cls(directory, Record("dev", str(uuid.uuid4()), members, restoring=restoring))
        try:
            write_file(cluster.secret_file, secrets.token_hex(SECRET_BYTES).encode())
            cluster.save()
        except BaseException:  # A full disk, Ctrl-C: nothing half made is to stay.
            cluster.purge()
            raise
        return cluster

    @classmethod
    def open(cls, directory: Path, *, half_made: bool = False) -> DevCluster:
        """The cluster recorded in a directory; only `half_made` also one that is still being restored.

        Raises NotFound, Conflict for a half made one, InvalidInput for a damaged record.
        """
        file = directory / RECORD
        try:
            record = msgspec.json.decode(file.read_bytes(), type=Record)
        except FileNotFoundError:
            raise NotFound(f"there is no dev cluster in {directory}") from None
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidInput(f"cannot read the record of the dev cluster, {file}: {error}") from error
        if record.format != FORMAT:
            raise InvalidInput(
                f"{file} was written by another version of raftos; use that version, or --fresh"
            )
        if record.restoring and not half_made:
            raise Conflict(
                f"restoring a snapshot into {directory} was interrupted; "
                f"`raftos snapshot restore FILE --data-dir {directory}` begins it again"
            )
        return cls(directory, record)

    @property
    def members(self) -> list[Member]:
        return self.record.members

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.active]

    @property
    def secret_file(self) -> Path:
        return self.directory / "secret"

    def secret(self) -> str:
        return self.secret_file.read_text().strip()

    def home(self, member: Member) -> Path:
        return self.directory / member.name

    def data_dir(self, member: Member) -> Path:
        return self.home(member) / "data"

    def config_file(self, member: Member) -> Path:
        return self.home(member) / "member.json"

    def log_file(self, member: Member) -> Path:
        return self.home(member) / "member.log"

    def member(self, number: int) -> Member:
        """The member with a 1-based number. Raises InvalidInput."""
        for member in self.members:
            if member.number == number:
                return member
        numbers = [member.number for member in self.members]
        if numbers == list(range(1, len(numbers) + 1)):
            known = f"1 to {len(numbers)}"
        else:
            known = ", ".join(map(str, numbers))
        raise InvalidInput(f"there is no member {number}; this dev cluster has members {known}")

    def named(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    @property
    def active(self) -> list[Member]:
        """Those that belong to the cluster and have joined it."""
        return [each for each in self.members if not self.is_removed(each) and not self.is_joining(each)]

    def is_removed(self, member: Member) -> bool:
        """Whether it was removed from the cluster, as its daemon wrote down when it was told."""
        return member.removed or (self.data_dir(member) / "removed.json").exists()

    def is_joining(self, member: Member) -> bool:
        """Whether joining was begun and has not been finished (`joining.py`)."""
        return (self.home(member) / "joining.json").exists()

    def has_lost_data(self, member: Member) -> bool:
        return member.begun and not self._has_data(member)

    def _has_data(self, member: Member) -> bool:
        return (self.data_dir(member) / "identity.json").exists()

    def loss(self, member: Member) -> str:
        """What to say of a member that has lost its data."""
        return (
            f"{member.name} has lost its data, {self.data_dir(member)}; begun anew, "
            "it could break what it promised"
        )

    def note_begun(self) -> None:
        """Put on record which members have data by now, as a daemon that has promised anything does."""
        if self._mark_begun():
            self.save()

    def _mark_begun(self) -> bool:
        """Whether there were any that have begun since the last time."""
        begun = [each for each in self.members if not each.begun and self._has_data(each)]
        for member in begun:
            member.begun = True
        return bool(begun)

    def refuse_to_start(self, member: Member) -> None:
        """Raises Conflict for a member that would not start, with what brings it back."""
        if self.is_removed(member):
            raise Conflict(
                f"{member.name} was removed from the cluster; `raftos dev rejoin {member.number}` lets it "
                "join anew, under a new id"
            )
        if self.is_joining(member):
            how = f"rejoin {member.number}" if self.data_dir(member).exists() else "add"
            raise Conflict(f"{member.name} has not joined yet; `raftos dev {how}` finishes it")
        if self.has_lost_data(member):
            raise Conflict(
                f"{self.loss(member)}; `raftos dev rejoin {member.number}` lets it join anew, under a new id"
            )
        if not self.config_file(member).exists():
            raise Conflict(
                f"{member.name} has no configuration, {self.config_file(member)}; `raftos dev stop` and "
                f"`raftos dev start` write it again, `raftos dev rejoin {member.number}` lets it join anew"
            )

    def enter(self, member: Member) -> None:
        """Put a new member on record, or the new id of one that joins anew."""
        others = [each for each in self.members if each.name != member.name]
        self.record.members = sorted([*others, member], key=lambda each: each.number)
        self.save()

    def leave(self, member: Member, *, purge: bool) -> None:
        """Take a member off the record that was removed and has ended; its folder is kept unless `purge`."""
        if self.home(member).exists():
            if purge:
                shutil.rmtree(self.home(member))
            else:
                kept = f"{member.name}-{member.id}"
                self.record.left = list(dict.fromkeys([*self.record.left, kept]))
                self.save()
                self.home(member).rename(self.directory / kept)
        self.record.members = [each for each in self.members if each.name != member.name]
        self.save()

    def save(self) -> None:
        write_json(self.directory / RECORD, self.record)

    # --- addresses ---------------------------------------------------------------------------

    def assign_ports(self, first_port: int | None) -> None:
        """Give every active member two ports that are free now, and write all configurations.

        The API ports are `first_port` and those after it if given; otherwise, and for the peer
        ports, those of the last time if still free. Raises StartupError for a taken `first_port`.
        """
        with contextlib.ExitStack() as held:
            for offset, member in enumerate(self.active):
                wanted = None if first_port is None else first_port + offset
                member.api_port = hold_port(held, member.api_port, wanted)
            for member in self.active:
                member.peer_port = hold_port(held, member.peer_port, None)
        self.save()
        for member in self.active:
            self._write_config(member)

    def _write_config(self, member: Member) -> None:
        make_private_directory(self.home(member))
        config = Config(
            cluster=self.record.cluster,
            cluster_id=self.record.cluster_id,
            member_id=member.id,
            name=member.name,
            data_dir=str(self.data_dir(member)),
            secret_file=str(self.secret_file),
            voters=tuple(
                Voter(each.id, each.name, f"{LOOPBACK}:{each.peer_port}", each.endpoint)
                for each in self._known_to(member)
            ),
            joined=member.joined,
            peer_address=f"{LOOPBACK}:{member.peer_port}",
            api_address=f"{LOOPBACK}:{member.api_port}",
        )
        write_json(self.config_file(member), config)

    def _known_to(self, member: Member) -> list[Member]:
        """The members to begin with; for one that joined later, all the others."""
        if member.joined:
            return [each for each in self.active if each is not member]
        return [each for each in self.active if not each.joined]

    # --- processes ---------------------------------------------------------------------------

    def process(self, member: Member) -> psutil.Process | None:
        """The living daemon of a member, or None. Never a process that merely has its pid."""
        if member.pid is None or member.started_s is None:
            return None
        self._reap()
        try:
            process = psutil.Process(member.pid)
            same_start = abs(process.create_time() - member.started_s) < START_TIME_TOLERANCE_S
            ended = process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
            ours = same_start and not ended and str(self.config_file(member)) in process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return process if ours else None

    def _reap(self) -> None:
        """A child of ours that has ended leaves the process table only when asked."""
        for child in self._children:
            child.poll()

    def _reap_all(self, members: Sequence[Member]) -> None:
        """Wait for children that were killed: one that is about to end has lost its command line already."""
        killed = {member.pid for member in members}
        for child in self._children:
            if child.pid in killed:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(STOP_GRACE_S)

    def state(self, member: Member) -> State:
        process = self.process(member)
        try:
            if process is None:
                return "removed" if self.is_removed(member) else "dead"
            return "paused" if process.status() == psutil.STATUS_STOPPED else "running"
        except psutil.NoSuchProcess:
            return "dead"

    def living(self) -> list[Member]:
        return [member for member in self.members if self.process(member) is not None]

    def spawn(self, member: Member) -> None:
        """Start a member's daemon as a session of its own, and record it. Raises StartupError."""
        with undisturbed():
            self._spawn(member)

    def _spawn(self, member: Member) -> None:
        command = [sys.executable, "-m", "raftos", "--config", str(self.config_file(member))]
        try:
            with self.log_file(member).open("ab") as log:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.home(member),
                    start_new_session=True,
                )
        except OSError as error:
            raise StartupError(f"cannot start {member.name}: {error}") from error
        try:
            self._children.append(child)
            process = psutil.Process(child.pid)
            member.pid, member.started_s = child.pid, process.create_time()
            self.save()
            while child.poll() is None and not process.cmdline():
                time.sleep(POLL_S / 10)  # A new program has no command line yet, by which it is known.
        except BaseException:
            child.kill()  # What is not on record would never be stopped.
            child.wait()
            raise

    def send(self, member: Member, number: signal.Signals) -> bool:
        """Send a signal to a living member; False if it is dead."""
        process = self.process(member)
        if process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            return True
        return False

    def kill(self, members: Iterable[Member]) -> None:
        """End members at once, as a power cut would, and wait until they are gone."""
        chosen = list(members)
        for member in chosen:
            self.send(member, signal.SIGKILL)
        self._wait_dead(chosen, STOP_GRACE_S)
        self._reap_all(chosen)

    def stop(self, members: Iterable[Member]) -> None:
        """End members in good order; those that have not ended after the grace are killed."""
        chosen = list(members)
        for member in chosen:
            self.send(member, signal.SIGTERM)
            self.send(member, signal.SIGCONT)  # A paused process acts on SIGTERM only once it runs.
        self.kill(self._wait_dead(chosen, STOP_GRACE_S))

    def pause(self, member: Member) -> None:
        """Freeze a member; returns once the system says it is stopped. Raises Conflict."""
        self._signal_living(member, signal.SIGSTOP, "paused")

    def resume(self, member: Member) -> None:
        self._signal_living(member, signal.SIGCONT, "running")

    def _signal_living(self, member: Member, number: signal.Signals, wanted: State) -> None:
        if not self.send(member, number):
            raise Conflict(
                f"{member.name} is not running; `raftos dev restart {member.name[1:]}` starts it again"
            )
        deadline = time.monotonic() + 1.0
        while self.state(member) not in {wanted, "dead", "removed"} and time.monotonic() < deadline:
            time.sleep(POLL_S / 10)

    def _wait_dead(self, members: Sequence[Member], limit_s: float) -> list[Member]:
        """Wait for members to end; returns those that have not within the limit."""
        deadline = time.monotonic() + limit_s
        while True:
            left = [member for member in members if self.process(member) is not None]
            self._reap()  # One may have ended between being asked and being looked at.
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(POLL_S)

    def forget_processes(self) -> None:
        """Record that nothing runs any more: this cluster was stopped, not struck down."""
        for member in self.members:
            member.pid = member.started_s = None
        self._mark_begun()
        self.save()

    @property
    def is_stopped(self) -> bool:
        return all(member.pid is None for member in self.members)

    def purge(self) -> None:
        """Delete everything the cluster keeps, and nothing else. The caller has stopped it."""
        for member in self.members:
            shutil.rmtree(self.home(member), ignore_errors=True)
        for name in self.record.left:
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for file in (self.secret_file, self.directory / RECORD):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # Somebody else's files are in it: it stays.
            self.directory.rmdir()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Until this is done, Ctrl-C and the ends of terminals wait: a process unknown to anybody would stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, lambda number, _frame: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        signal.raise_signal(waiting[0])


def hold_port(held: contextlib.ExitStack, last: int, wanted: int | None) -> int:
    """Bind a free port until `held` closes: the wanted one, the last one, or a fresh one."""
    if wanted is not None:
        if (listener := _bind(wanted)) is None:
            raise StartupError(f"port {wanted} is in use; choose another with --port, or leave it out")
    elif last == 0 or (listener := _bind(last)) is None:
        listener = _bind_any()
    held.enter_context(listener)
    port: int = listener.getsockname()[1]
    return port


def _bind(port: int) -> socket.socket | None:
    """A socket bound to one port, or None if somebody listens there."""
    bound = socket.socket()
    # Connections of an earlier daemon may still be closing down; they do not hinder a new one.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((LOOPBACK, port))
        bound.listen(1)  # Without this, two who look at the same moment would both find it free.
    except OSError:
        bound.close()
        return None
    return bound


def _bind_any() -> socket.socket:
    for _ in range(1_000):
        if (bound := _bind(secrets.choice(PORTS))) is not None:
            return bound
    raise StartupError(f"found no free port from {PORTS.start} to {PORTS.stop - 1} on {LOOPBACK}")


def make_private_directory(directory: Path) -> None:
    """Make a directory for this user alone. Raises InvalidInput where that is impossible."""
    try:
        if not directory.is_dir():
            make_folder(directory)
    except OSError as error:
        raise InvalidInput(f"cannot make the directory {directory}: {error.strerror}") from error


def is_unused(directory: Path) -> bool:
    """Whether it is empty, but for what a creation left that was struck down before there was a record."""
    return all(_is_left_over(file) for file in directory.iterdir())


def _is_left_over(file: Path) -> bool:
    if file.name in {"secret", f"secret{DRAFT}"}:  # A secret of somebody else's is not ours to replace.
        return file.is_file() and HEX.fullmatch(file.read_bytes()[: 4 * SECRET_BYTES]) is not None
    return file.name == f"{RECORD}{DRAFT}" and file.is_file()
