"""One member's own folder, from nothing to a member of a running cluster.

    FOLDER/
        joining.json   what was decided before anybody was asked: id, name, ports; gone once it has joined,
                       or was refused
        member.json    the configuration of its daemon, there once it has joined
        secret         the cluster's secret, mode 0600 (a dev cluster has one for all)
        data/          its journal, its snapshots and its state
        data.was-ID/   the data of the member it was before, kept for people

    nothing -> joining.json -> (asked, let in) -> member.json -> joining.json is removed: joined
    joined, to join anew -> (the cluster removes it) -> joining.json that says whom it replaces -> data/ moved
        aside -> member.json removed -> as above

Whatever stops in between, `finish` goes on from there: every file is written durably before the next step,
the id never changes once it was written, and what the cluster is asked for may be asked twice. A cluster
that refuses ends it: then nothing has happened, and nothing is left to go on with.

One at a time: whoever changes anything here holds the lock on the folder itself, `exclusively`; for a local
cluster it is the one on the whole of it (dev.py). A daemon's lock is the one on data/.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from raftos.config import Config, Voter, load
from raftos.durable import write_file, write_json
from raftos.errors import Busy, Conflict, InvalidInput, LimitReached, NotEnabled, NotFound, StartupError
from raftos_cli.devcluster import LOOPBACK, hold_port, make_private_directory

if TYPE_CHECKING:
    from raftos.client import Client
    from raftos.client.members import Membership

CONFIG = "member.json"
PLAN = "joining.json"

Role = Literal["voter", "learner"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Who is to join. `replaces` is the id of the member that this folder was; its data may be deleted."""

    id: str
    name: str
    role: Role
    api_port: int
    peer_port: int
    replaces: str | None = None
    purge: bool = False


class Home:
    """The folder of one member. `secret_file` belongs to others; without it the secret is kept here."""

    def __init__(self, folder: Path, secret_file: Path | None = None) -> None:
        self.folder = folder.resolve()
        self._shared_secret = secret_file

    @property
    def config_file(self) -> Path:
        return self.folder / CONFIG

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def secret_file(self) -> Path:
        return self._shared_secret or self.folder / "secret"

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keep others from changing this folder, which is made if need be. Raises Conflict, InvalidInput."""
        make_private_directory(self.folder)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"another `raftos start` is at work in {self.folder}; try again once it is done"
                ) from None
            yield
        finally:
            os.close(folder)

    def config(self) -> Config | None:
        """The configuration of the member this is; None before it has joined. Raises InvalidInput."""
        if not self.config_file.exists():
            return None
        try:
            return load(self.config_file)
        except StartupError as error:
            raise InvalidInput(error.message) from error

    def plan(self) -> Plan | None:
        """What was begun and not finished. Raises InvalidInput for a damaged file."""
        file = self.folder / PLAN
        try:
            return msgspec.json.decode(file.read_bytes(), type=Plan)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidInput(f"cannot read {file}: {error}; remove it to begin anew") from error

    def begin(
        self,
        name: str,
        role: Role,
        *,
        port: int | None = None,
        replaces: str | None = None,
        purge: bool = False,
    ) -> Plan:
        """Mint an id and choose ports, durably, before anybody is asked. Raises InvalidInput."""
        make_private_directory(self.folder)
        if replaces is None and self.data.exists() and any(self.data.iterdir()):
            raise InvalidInput(f"{self.data} holds data, but there is no {CONFIG}; name another folder")
        plan = Plan(
            id=secrets.token_hex(8),
            name=name,
            role=role,
            api_port=0,
            peer_port=0,
            replaces=replaces,
            purge=purge,
        )
        return self._with_ports(plan, port)

    def _with_ports(self, plan: Plan, port: int | None = None) -> Plan:
        """The plan with ports that are free now: its own where they are. Raises StartupError."""
        with contextlib.ExitStack() as held:
            api_port = hold_port(held, plan.api_port, port)
            peer_port = hold_port(held, plan.peer_port, None)
        settled = msgspec.structs.replace(plan, api_port=api_port, peer_port=peer_port)
        write_json(self.folder / PLAN, settled)
        return settled

    def finish(self, client: Client, token: str) -> Config:
        """Join as planned, from wherever it stopped; `settle` ends it. Raises RaftosError.

        Where the cluster refuses, the plan is given up, so that another may be made.
        """
        plan = self.plan()
        assert plan is not None
        config = self.config()
        if config is not None and config.member_id == plan.id:
            return config
        if plan.replaces is not None:
            self._leave_behind(plan, plan.replaces)
        try:
            return self._join(client, self._with_ports(plan), token)
        except (Conflict, InvalidInput, LimitReached) as error:
            if plan.replaces is None and not isinstance(error, Busy | NotEnabled):
                self.settle()
            raise

    def settle(self) -> None:
        """Forget the plan: it was carried out, and whoever keeps a record of members has written it down."""
        (self.folder / PLAN).unlink(missing_ok=True)

    def _leave_behind(self, plan: Plan, old_id: str) -> None:
        """Put the data of the member that this folder was out of the way."""
        self.refuse_in_use()
        if self.data.exists():
            if plan.purge:
                shutil.rmtree(self.data)
            else:
                self.data.rename(self._free_name(f"data.was-{old_id}"))
        self.config_file.unlink(missing_ok=True)

    def _free_name(self, name: str) -> Path:
        target = self.folder / name
        for number in range(2, 1_000):
            if not target.exists():
                break
            target = self.folder / f"{name}.{number}"
        return target

    def _join(self, client: Client, plan: Plan, token: str) -> Config:
        if self._shared_secret is None:
            write_file(self.secret_file, token.encode())
        membership = client.members.add(
            plan.id,
            plan.name,
            peer_address=f"{LOOPBACK}:{plan.peer_port}",
            endpoint=f"http://{LOOPBACK}:{plan.api_port}",
            role=plan.role,
        )
        return self._write(self._configured(plan, membership))

    def _write(self, config: Config) -> Config:
        write_json(self.config_file, config)
        return config

    def _configured(self, plan: Plan, membership: Membership) -> Config:
        others = [
            Voter(each.id, each.name, each.peer_address, each.endpoint)
            for each in membership.items
            if each.role != "none" and each.peer_address and each.id != plan.id
        ]
        return Config(
            cluster=membership.cluster,
            cluster_id=membership.cluster_id,
            member_id=plan.id,
            name=plan.name,
            data_dir=str(self.data),
            secret_file=str(self.secret_file),
            voters=tuple(others),
            joined=True,
            peer_address=f"{LOOPBACK}:{plan.peer_port}",
            api_address=f"{LOOPBACK}:{plan.api_port}",
        )

    def moved_to(self, port: int, config: Config) -> Config:
        """The configuration with this API port, durably; its daemon tells the others once it runs.

        Another port is looked for as well in place of a peer port that somebody else has taken. The port it
        has changes nothing. Raises Conflict while its daemon runs, StartupError for a port in use.
        """
        api_host, _, api_port = config.api_address.rpartition(":")
        peer_host, _, peer_port = config.peer_address.rpartition(":")
        if int(api_port) == port:
            return config
        self.refuse_in_use("its port changes")
        with contextlib.ExitStack() as held:
            hold_port(held, 0, port)
            peer_address = f"{peer_host}:{hold_port(held, int(peer_port), None)}"
        api_address = f"{api_host}:{port}"
        own = Voter(config.member_id, config.name, peer_address, f"http://{api_address}")
        voters = tuple(own if each.id == own.id else each for each in config.voters)
        return self._write(
            msgspec.structs.replace(config, api_address=api_address, peer_address=peer_address, voters=voters)
        )

    def brought_here(self, config: Config) -> Config:
        """The configuration with the paths of this folder, durably, if the folder was moved.

        It was if its secret is not in the place named, but here. What lies elsewhere on purpose stays so.
        Raises Conflict for a copy of a folder that is in its place, InvalidInput where files are missing.
        """
        data, secret = Path(config.data_dir), Path(config.secret_file)
        self._refuse_copy(config, {data.parent, secret.parent})
        data_lost, secret_lost = self._is_lost(data), self._is_lost(secret)
        whole = data_lost and secret_lost and data.parent == secret.parent
        if secret_lost and not (self.folder / secret.name).exists():
            raise self._incomplete(secret)
        if data_lost and not whole and (self.folder / data.name).exists():
            raise self._incomplete(data)  # What is here may be older than what has perhaps not been mounted.
        places: dict[str, str] = {}
        if secret_lost:
            places["secret_file"] = str(self.folder / secret.name)
        if whole:  # Before the first start there is no data anywhere.
            places["data_dir"] = str(self.folder / data.name)
        return self._write(msgspec.structs.replace(config, **places)) if places else config

    def _is_lost(self, path: Path) -> bool:
        return path.parent.resolve() != self.folder and not path.exists()

    def _incomplete(self, lost: Path) -> InvalidInput:
        return InvalidInput(
            f"{self.folder} seems to have been moved: its {CONFIG} names {lost}, which does not exist; "
            "move the folder back, or correct that path"
        )

    def _refuse_copy(self, config: Config, places: set[Path]) -> None:
        """A member in two places would break what it promised in one of them."""
        for place in places:
            with contextlib.suppress(InvalidInput):
                there = Home(place)
                original = there.config() if there.folder != self.folder else None
                if original is not None and original.member_id == config.member_id:
                    raise Conflict(
                        f"{self.folder} is a copy of {place}, and a member has one place: "
                        f"`raftos start --data-dir {place}` starts it there"
                    )

    def refuse_in_use(self, before: str = "this member joins anew") -> None:
        if self.is_in_use():
            raise Conflict(f"a daemon uses {self.data}; stop it before {before}")

    def is_in_use(self) -> bool:
        """Whether a daemon has the data open: it holds a lock on the folder as long as it lives."""
        try:
            folder = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(folder)
        return False


def give_up(client: Client, member_id: str) -> None:
    """Let the cluster remove a member that is to join anew, or never did. Refused, nothing has changed.

    Raises Conflict, NoQuorum.
    """
    with contextlib.suppress(NotFound):
        client.members.remove(member_id, force=True)
