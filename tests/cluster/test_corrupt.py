"""A member whose state is not that of the others: it is found out, stops serving, and stays out."""

from __future__ import annotations

import sqlite3

from raftos.state.storage import FILE_NAME
from raftos.trust import FILE_NAME as VERDICT
from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, wait_until


def spoil(cluster: Cluster, member: Member) -> None:
    """Change the hash, as if something had been applied in another way, while the member is stopped."""
    db = sqlite3.connect(cluster.dev.data_dir(member) / "state" / FILE_NAME)
    db.execute("UPDATE machine SET state_hash = zeroblob(16)")
    db.commit()
    db.close()


def is_out(cluster: Cluster, member: Member) -> bool:
    answer = cluster.ask(member, "/readyz")
    return answer is not None and answer.status == 503 and b"raftos dev rejoin" in answer.body


def alarms(cluster: Cluster, asked: Member) -> list[tuple[str, str | None]]:
    """By the raw answer: the hashes differ here, as they never may elsewhere."""
    found = cluster.request(asked, "/v1/status").json["alarms"]
    return [(alarm["alarm"], alarm.get("node")) for alarm in found]


def test_a_member_with_another_state_stops_serving_also_after_a_restart(cluster: Cluster) -> None:
    """The others go on and say whom to replace; nobody gets a wrong answer from it."""
    cluster.forgive("not to be trusted", "to different states")
    cluster.settle()
    corrupt = cluster.followers()[0]
    others = [member for member in cluster.members if member is not corrupt]
    expected = [("CORRUPT", corrupt.name)]
    cluster.stop(corrupt)
    spoil(cluster, corrupt)
    cluster.spawn(corrupt)
    for _ in range(2):
        wait_until("it is found out", lambda: is_out(cluster, corrupt))
        assert (cluster.dev.data_dir(corrupt) / VERDICT).exists()
        for path in ("/v1/kv/list", "/v1/kv/list?consistency=stale", "/v1/events?consistency=stale"):
            answer = cluster.request(corrupt, path)
            assert answer.status == 503 or b"not_ready" in answer.body, answer.body
        with cluster.client(*others) as client:
            client.kv.put("key", b"value")
        for asked in cluster.members:
            wait_until("that is all", lambda asked=asked: alarms(cluster, asked) == expected)  # type: ignore[misc]
        cluster.kill(corrupt)
        cluster.spawn(corrupt)
    wait_until("it is out again", lambda: is_out(cluster, corrupt))
    cluster.kill(next(member for member in others if member is cluster.leader()))
    assert cluster.dev.state(corrupt) == "running"
    wait_until("the sound one leads", lambda: any(cluster.leads(member) for member in others))
