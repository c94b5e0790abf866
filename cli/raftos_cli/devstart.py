"""Bringing a local cluster up, and watching it.

A cluster is up when it takes writes, which only a real write shows. All daemons are started at once
and asked every 20 ms whether they are ready; one that ends while starting ends the whole start, with
the last words of its log. Whatever goes wrong, an interrupt included, everything this start has
started is killed again and the context that was current before is current again.

Asking is soft and quick: plain HTTP to one process of this machine, outside the client's retries,
because here the question is how *this* member does.
"""

from __future__ import annotations

import contextlib
import http.client
import time
import uuid
from collections.abc import Callable, Iterator

import msgspec

from raftos.client import contexts
from raftos.errors import InvalidInput, NotFound, NotReady, StartupError
from raftos_cli.devcluster import LOOPBACK, POLL_S, DevCluster, Member
from raftos_cli.devlogs import Follower, is_alarming, last_words, readable

CONTEXT = "dev"
ASK_TIMEOUT_S = 0.5
LAGGARDS_S = 3.0
"""How long a start waits for the last members once the cluster takes writes."""
CATCH_UP_S = 5.0
WATCH_S = 0.25


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


def bring_up(cluster: DevCluster, first_port: int | None, timeout_s: float) -> list[Member]:
    """Start all members and wait until the cluster takes writes; returns those not ready yet.

    Raises StartupError (a member ended), NotReady (no write in time).
    """
    deadline = time.monotonic() + timeout_s
    cluster.assign_ports(first_port)
    before = contexts.load()
    try:
        for member in cluster.members:
            cluster.spawn(member)
        contexts.put(
            CONTEXT, contexts.Context(tuple(cluster.endpoints), cluster.secret(), cluster.record.cluster)
        )
        _wait(cluster, deadline, lambda: any(is_ready(cluster, member) for member in cluster.members))
        write_once(cluster, deadline)
    except BaseException:
        cluster.kill(cluster.members)
        cluster.forget_processes()
        _restore_context(before)
        raise
    return _wait_for_laggards(cluster)


def _wait(cluster: DevCluster, deadline: float, done: Callable[[], bool]) -> None:
    while not done():
        for member in cluster.members:
            if cluster.process(member) is None:
                raise StartupError(
                    f"{member.name} ended while starting: {last_words(cluster.log_file(member))}"
                )
        if time.monotonic() > deadline:
            raise NotReady(
                "the cluster was not ready to take writes in time; its logs are in "
                f"{cluster.directory}, and --timeout gives it longer"
            )
        time.sleep(POLL_S)


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


def _wait_for_laggards(cluster: DevCluster) -> list[Member]:
    deadline = time.monotonic() + LAGGARDS_S
    late = list(cluster.members)
    while late and time.monotonic() < deadline:
        late = [member for member in late if not is_ready(cluster, member)]
        if late:
            time.sleep(POLL_S)
    return late


def wait_until_back(cluster: DevCluster, member: Member, timeout_s: float) -> bool:
    """Wait until a member that was started answers, then until it has caught up.

    Returns False if it runs but cannot catch up: no majority runs. Raises StartupError, NotReady.
    """
    deadline = time.monotonic() + timeout_s
    while ask(cluster, member, "/livez") is None:
        if cluster.process(member) is None:
            raise StartupError(f"{member.name} ended while starting: {last_words(cluster.log_file(member))}")
        if time.monotonic() > deadline:
            raise NotReady(f"{member.name} runs but did not answer within {timeout_s:g} s")
        time.sleep(POLL_S)
    running = sum(cluster.state(each) == "running" for each in cluster.members)
    if running <= len(cluster.members) // 2:
        return False
    deadline = time.monotonic() + CATCH_UP_S
    while not (caught_up := _has_caught_up(cluster, member)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return caught_up


def _has_caught_up(cluster: DevCluster, member: Member) -> bool:
    """Ready, and seen alive by the cluster with everything that is committed."""
    if not is_ready(cluster, member) or (answer := ask(cluster, member, "/v1/status")) is None:
        return False
    status = msgspec.json.decode(answer, type=Status)
    return any(
        node.id == member.id and node.state == "alive" and (node.applied_index or 0) >= status.commit_index
        for node in status.nodes
    )


def watch(cluster: DevCluster) -> Iterator[str]:
    """What happens to the cluster, a line each, until somebody stops it."""
    followers = [(member.name, Follower(cluster.log_file(member))) for member in cluster.members]
    states = {member.name: cluster.state(member) for member in cluster.members}
    leader = leader_of(cluster)
    while not cluster.is_stopped:
        time.sleep(WATCH_S)
        with contextlib.suppress(NotFound, InvalidInput):  # It is being purged: the next look finds it gone.
            cluster.record = DevCluster.open(cluster.directory).record
        if not cluster.directory.exists():
            return
        for member in cluster.members:
            now = cluster.state(member)
            if now != states[member.name]:
                yield f"{member.name} is {now}"
            states[member.name] = now
        for name, follower in followers:
            yield from (f"{name}: {readable(line)}" for line in follower.fresh() if is_alarming(line))
        now_leads = leader_of(cluster)
        if now_leads != leader:
            yield f"{now_leads} leads now" if now_leads else "nobody leads"
        leader = now_leads
