"""Bringing a local cluster up, and watching it.

A cluster is up when it takes writes, which only a real write shows. All daemons are started at once
and asked every 20 ms whether they are ready. Where some end while starting, a majority goes on without
them, so that they can join anew; without one the whole start ends, with the last words of their logs.
Whatever goes wrong, an interrupt included, everything this start has started is killed again and the
context that was current before is current again.

Asking is soft and quick: plain HTTP to one process of this machine, outside the client's retries,
because here the question is how *this* member does.
"""

from __future__ import annotations

import contextlib
import http.client
import time
import uuid
from collections.abc import Iterator

import msgspec

from raftos.client import contexts
from raftos.errors import NotFound, NotReady, RaftosError, StartupError
from raftos_cli.devcluster import LOOPBACK, POLL_S, DevCluster, Member, State
from raftos_cli.devlogs import Follower, alarm, last_words

CONTEXT = "dev"
ASK_TIMEOUT_S = 0.5
LAGGARDS_S = 3.0
"""How long a start waits for the last members once the cluster takes writes."""
CATCH_UP_S = 5.0
WATCH_S = 0.25
NO_MAJORITY = (
    "no majority is left. `raftos dev logs N` shows what member N said; where data is lost for good, "
    "`raftos dev recover N` goes on with a member that has its own, and --fresh begins anew without any"
)


def ask(cluster: DevCluster, member: Member, path: str) -> bytes | None:
    """The body of one member's answer, or None if it does not answer with success."""
    connection = http.client.HTTPConnection(LOOPBACK, member.api_port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {cluster.secret()}"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == 200 else None


def is_ready(cluster: DevCluster, member: Member) -> bool:
    return ask(cluster, member, "/readyz") is not None


class Leader(msgspec.Struct, frozen=True):
    """What is needed of `/v1/leader`."""

    leader: str
    term: int


class Seen(msgspec.Struct, frozen=True):
    id: str
    name: str
    role: str | None
    state: str
    applied_index: int | None


class Status(msgspec.Struct, frozen=True):
    """What is needed of `/v1/status`."""

    commit_index: int
    nodes: list[Seen]


def leader_of(cluster: DevCluster) -> str | None:
    """The name of the leader, as the member with the highest term sees it; None if it does not run."""
    running = {member.name: member for member in cluster.members if cluster.state(member) == "running"}
    answers = [ask(cluster, member, "/v1/leader") for member in running.values()]
    views = [msgspec.json.decode(answer, type=Leader) for answer in answers if answer is not None]
    newest = max(views, key=lambda view: view.term, default=None)
    return newest.leader if newest and newest.leader in running else None


def learners_of(cluster: DevCluster) -> set[str]:
    """The names of those that do not vote, as any member sees it; none where nobody answers."""
    for member in cluster.members:
        if cluster.state(member) == "running" and (answer := ask(cluster, member, "/v1/status")) is not None:
            nodes = msgspec.json.decode(answer, type=Status).nodes
            return {node.name for node in nodes if node.role == "learner"}
    return set()


def refresh_context(cluster: DevCluster) -> None:
    """Let the context name the endpoints there are now; whichever is current stays so."""
    before = contexts.load()
    endpoints = tuple(member.endpoint for member in cluster.active)
    contexts.put(CONTEXT, contexts.Context(endpoints, cluster.secret(), cluster.record.cluster))
    if before.current not in {None, CONTEXT}:
        contexts.put(before.current or "", before.contexts[before.current or ""])


def bring_up(cluster: DevCluster, first_port: int | None, timeout_s: float) -> list[Member]:
    """Start all members and wait until the cluster takes writes; returns those not ready yet, or ended.

    Raises StartupError (so many ended that there is no majority), NotReady (no member was ready, or took
    a write, in time).
    """
    cluster.assign_ports(first_port)
    before = contexts.load()
    try:
        return _bring_up(cluster, timeout_s)
    except BaseException:  # Also Ctrl-C: no half of a cluster is to run on.
        cluster.kill(cluster.members)
        with contextlib.suppress(OSError):  # A full disk, which may be why: no process is left to forget.
            cluster.forget_processes()
        _restore_context(before)
        raise


def _bring_up(cluster: DevCluster, timeout_s: float) -> list[Member]:
    deadline = time.monotonic() + timeout_s
    for member in cluster.active:
        if not cluster.has_lost_data(member):
            cluster.spawn(member)
    endpoints, name = tuple(member.endpoint for member in cluster.active), cluster.record.cluster
    contexts.put(CONTEXT, contexts.Context(endpoints, cluster.secret(), name))
    try:
        if len(_not_ready(cluster, deadline, enough=1)) == len(cluster.active):
            raise NotReady(
                f"no member was ready within {timeout_s:g} s; their logs are in {cluster.directory}, "
                "and --timeout gives them longer"
            )
        write_once(cluster, deadline)
    except RaftosError as error:  # Those that have ended are why, whatever it is called.
        if ended := ended_of(cluster):
            raise StartupError(f"{_ends(cluster, ended)}; {NO_MAJORITY}") from error
        raise
    late = _not_ready(cluster, time.monotonic() + LAGGARDS_S, enough=len(cluster.active))
    cluster.note_begun()
    return late


def _not_ready(cluster: DevCluster, deadline: float, *, enough: int) -> list[Member]:
    """Wait until so many members, or all that run, are ready; returns the others. Raises StartupError."""
    while True:
        refuse_minority(cluster)
        running = len(cluster.active) - len(ended_of(cluster))
        late = [member for member in cluster.active if not is_ready(cluster, member)]
        if len(cluster.active) - len(late) >= min(enough, running) or time.monotonic() > deadline:
            return late
        time.sleep(POLL_S)


def refuse_minority(cluster: DevCluster) -> None:
    """Raises StartupError where too many have ended, whoever votes of those that joined later."""
    ended = ended_of(cluster)
    voters = [each for each in cluster.active if not (each.joined and each in ended)]
    if ended and 2 * (len(cluster.active) - len(ended)) <= len(voters):
        raise StartupError(_ends(cluster, ended))


def ended_of(cluster: DevCluster) -> list[Member]:
    return [member for member in cluster.active if cluster.process(member) is None]


def refuse_ended(cluster: DevCluster, *members: Member) -> None:
    """Raises StartupError if one of them does not run any more, with what may bring it back."""
    if ended := [member for member in members if cluster.process(member) is None]:
        anew = " and ".join(f"`raftos dev rejoin {member.number}`" for member in ended)
        raise StartupError(
            f"{_ends(cluster, ended)}; {anew} lets it join anew, if its data is to blame or it was removed"
        )


def _ends(cluster: DevCluster, members: list[Member]) -> str:
    """Why each of them does not run."""
    return "; ".join(
        cluster.loss(member)
        if cluster.has_lost_data(member)
        else f"{member.name} ended while starting: {last_words(cluster.log_file(member))}"
        for member in members
    )


def write_once(cluster: DevCluster, deadline: float) -> None:
    """One real write that changes nothing: deleting a key that cannot exist is agreed on as any other."""
    from raftos.client import Client

    remaining_s = max(deadline - time.monotonic(), 0.1)
    with (
        Client(cluster.endpoints, context=CONTEXT, timeout_s=remaining_s) as client,
        contextlib.suppress(NotFound),
    ):
        client.kv.delete(f"raftos/dev/{uuid.uuid4()}")


def _restore_context(before: contexts.Contexts) -> None:
    contexts.remove(CONTEXT)
    names = [name for name in (CONTEXT, before.current) if name in before.contexts]
    for name in names:
        contexts.put(str(name), before.contexts[str(name)])


def wait_until_back(cluster: DevCluster, member: Member, timeout_s: float) -> bool:
    """Wait until a member that was started answers, then until it has caught up.

    Returns False if it runs but cannot catch up: no majority runs. Raises StartupError, NotReady.
    """
    deadline = time.monotonic() + timeout_s
    while ask(cluster, member, "/livez") is None:
        refuse_ended(cluster, member)
        if time.monotonic() > deadline:
            raise NotReady(f"{member.name} runs but did not answer within {timeout_s:g} s")
        time.sleep(POLL_S)
    caught_up = _catches_up(cluster, member)
    cluster.note_begun()
    refuse_ended(cluster, member)  # The others may have told it that it belongs to them no more.
    return caught_up


def _catches_up(cluster: DevCluster, member: Member) -> bool:
    """Whether it does within a while; False at once without a majority. Raises StartupError."""
    running = sum(cluster.state(each) == "running" for each in cluster.active)
    if running <= len(cluster.active) // 2:
        return False
    deadline = time.monotonic() + CATCH_UP_S
    while not (caught_up := has_caught_up(cluster, member)) and time.monotonic() < deadline:
        refuse_ended(cluster, member)
        time.sleep(POLL_S)
    return caught_up


def has_caught_up(cluster: DevCluster, member: Member) -> bool:
    """Ready, and seen alive by every running member with everything that is committed."""
    running = [each for each in cluster.active if cluster.state(each) == "running"]
    return is_ready(cluster, member) and all(_sees_caught_up(cluster, each, member) for each in running)


def _sees_caught_up(cluster: DevCluster, observer: Member, member: Member) -> bool:
    if (answer := ask(cluster, observer, "/v1/status")) is None:
        return False
    status = msgspec.json.decode(answer, type=Status)
    return any(
        node.id == member.id and node.state == "alive" and (node.applied_index or 0) >= status.commit_index
        for node in status.nodes
    )


class Watch:
    """What happens to a cluster, a line each, until somebody stops it."""

    def __init__(self, cluster: DevCluster) -> None:
        self.cluster = cluster
        self.followers = [(each.name, Follower(cluster.log_file(each))) for each in cluster.members]
        self.states = self._states()
        self.leader = leader_of(cluster)

    def __iter__(self) -> Iterator[str]:
        while self._refresh():
            yield from self._changes()
            time.sleep(WATCH_S)

    def _refresh(self) -> bool:
        """Read the record again: commands in other terminals change it. False once it says stopped."""
        try:
            self.cluster.record = DevCluster.open(self.cluster.directory).record
        except NotFound:
            return False
        return not self.cluster.is_stopped

    def _states(self) -> dict[str, State]:
        return {member.name: self.cluster.state(member) for member in self.cluster.members}

    def _changes(self) -> Iterator[str]:
        before, self.states = self.states, self._states()
        for name, state in self.states.items():
            if name not in before:
                self.followers.append((name, Follower(self.cluster.log_file(self.cluster.named(name)))))
            if state != before.get(name):
                yield f"{name} is {state}"
        for name, follower in self.followers:
            yield from (f"{name}: {said}" for line in follower.fresh() if (said := alarm(line)))
        led, self.leader = self.leader, leader_of(self.cluster)
        if self.leader != led:
            yield f"{self.leader} leads now" if self.leader else "nobody leads"
