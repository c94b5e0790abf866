"""`/metrics`, for Prometheus.

A request costs two additions and a bisection here; names, labels and text are made when somebody
scrapes. What consensus and the machine know is read at that moment too, so nothing is kept twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from raftos import alarms
from raftos.api.answers import Answer
from raftos.api.connection import Request
from raftos.api.streams import Streams
from raftos.consensus.base import Role
from raftos.member import Member
from raftos.state.tally import UNLIMITED

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class Series:
    """How often, how long in sum, and how many in each bucket."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self.counts), strict=True)]


class Metrics(Collector):
    """The handler of `/metrics`, and what the API tells it."""

    def __init__(self, member: Member, streams: Streams) -> None:
        self._member = member
        self._streams = streams
        self._requests: dict[tuple[str, int], Series] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def __call__(self, _request: Request) -> Answer:
        return Answer(200, generate_latest(self._registry), TEXT_FORMAT)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """One request served. `route` is a known path or `unknown`, never what a client made up."""
        series = self._requests.get((route, status))
        if series is None:
            series = self._requests[route, status] = Series()
        series.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        yield self._request_metric()
        yield from self._consensus_metrics()
        yield from self._tally_metrics()
        yield self._alarm_metric()
        faults = CounterMetricFamily(
            "raftos_faults", "Commands that ended in a bug of raftos since the start."
        )
        faults.add_metric([], self._member.machine.faults)
        yield faults
        cut = CounterMetricFamily("raftos_watchers_cut", "Watchers cut off for being slow, since the start.")
        cut.add_metric([], self._streams.cut)
        yield cut

    def _request_metric(self) -> Metric:
        family = HistogramMetricFamily(
            "raftos_http_request_seconds",
            "Time to serve a request, by route and status.",
            labels=["route", "status"],
        )
        for (route, status), series in self._requests.items():
            family.add_metric([route, str(status)], series.cumulative(), series.sum_s)
        return family

    def _alarm_metric(self) -> Metric:
        family = GaugeMetricFamily(
            "raftos_alarm",
            "1 while there is reason for it; on a leader of the whole cluster, else of this member.",
            labels=["alarm"],
        )
        raised = {alarm.alarm for alarm in self._member.alarms()}
        for name in alarms.NAMES:
            family.add_metric([name], name in raised)
        return family

    def _tally_metrics(self) -> Iterator[Metric]:
        machine = self._member.machine
        tally = GaugeMetricFamily("raftos_tally", "How much there is of what has a quota.", labels=["name"])
        limit = GaugeMetricFamily("raftos_tally_limit", "How much there may be: the quota.", labels=["name"])
        for name, most in machine.limits.items():
            if most < UNLIMITED:
                tally.add_metric([name], machine.tallies[name])
                limit.add_metric([name], most)
        yield from (tally, limit)

    def _consensus_metrics(self) -> Iterator[Metric]:
        status = self._member.consensus.status()
        gauges = {
            "raftos_is_leader": ("1 on the leader.", status.role == Role.LEADER),
            "raftos_has_quorum": ("1 while a leader is known and heard.", status.has_quorum),
            "raftos_in_trouble": ("1 while this member cannot write or apply.", status.trouble is not None),
            "raftos_ready": ("1 while /readyz says yes.", self._member.not_ready() is None),
            "raftos_peers_connected": ("Voters this member is linked with.", len(status.connected)),
            "raftos_term": ("The current term.", status.term),
            "raftos_commit_index": ("The last log index known to be agreed.", status.commit_index),
            "raftos_applied_index": ("The last log index applied.", status.applied_index),
            "raftos_synced_index": ("The last log index durable here.", status.synced_index),
            "raftos_watchers": ("Open streams of events.", len(self._streams)),
            "raftos_beacons": (
                "Beacons this member knows, faded ones of the last minute too.",
                len(self._member.beacons),
            ),
            "raftos_level": ("The feature level that is enabled.", self._member.machine.level),
            "raftos_revision": ("The revision of the state.", self._member.machine.revision),
        }
        for name, (sentence, value) in gauges.items():
            yield GaugeMetricFamily(name, sentence, value=float(value))
