"""What readers get: the cluster in one sentence, and the JSON of /api/state and of the stream.

    {incarnation, version, full, at_ms, poll_ms, history_ms, cluster, nodes, samples, events}

`incarnation` names one life of the monitor; versions of different lives have nothing to do with each other. With `full`
the reader replaces what it has, else it adds `samples` and `events` to it; a report is full also when nodes joined or
were removed since. A sample is [at_ms, writes/s, reads/s, lag],
each of the last three a list in the order of `nodes`. Ages (`age_ms`, `contact_ms`, `leaderless_ms`) count back from
the moment of the report, so that no clocks need to agree.
"""

from __future__ import annotations

from typing import Any

from monitor import limits
from monitor.collector import Collector, Contact, NodeView, Sample, total
from monitor.events import Event
from monitor.reading import Process
from vaultdb.clock import NS_PER_MS


def report(collector: Collector, *, incarnation: str, since: int, now_ns: int, wall_ms: int) -> dict[str, Any]:
    """Everything that is newer than version `since` (0: everything), ready for JSON."""
    if since < collector.nodes_version:
        since = 0
    return {
        "incarnation": incarnation,
        "version": collector.version,
        "full": since == 0,
        "at_ms": wall_ms,
        "poll_ms": collector.poll_ms,
        "history_ms": limits.HISTORY_MS,
        "cluster": cluster_summary(collector, now_ns),
        "nodes": [_node(collector, view, now_ns) for view in collector.nodes],
        "samples": [_sample(sample, collector.node_ids) for sample in collector.samples_since(since)],
        "events": [_event(event) for event in collector.events.since(since)],
    }


def cluster_summary(collector: Collector, now_ns: int) -> dict[str, Any]:
    """`condition`: starting, serving, impaired (serving, but not whole), no_leader or no_quorum."""
    condition, headline = _condition(collector)
    leader = collector.leader
    processes = [
        p for view in collector.nodes if view.contact is Contact.UP and view.status for p in view.status.processes
    ]
    up = [view.status for view in collector.nodes if view.contact is Contact.UP and view.status]
    return {
        "name": collector.config.cluster.name,
        "condition": condition,
        "headline": headline,
        "leader": None if leader is None else leader.name,
        "term": max((status.term for status in up if status.term is not None), default=None),
        "leaderless_ms": _age_ms(collector.leaderless_since_ns, now_ns),
        "nodes_total": len(collector.nodes),
        "nodes_up": len(up),
        "quorum": collector.quorum,
        "commit_index": max((status.commit_index for status in up if status.commit_index is not None), default=None),
        "revision": max((status.revision for status in up if status.revision is not None), default=None),
        "writes_per_s": total([view.writes_per_s for view in collector.nodes]),
        "reads_per_s": total([view.reads_per_s for view in collector.nodes]),
        "memory_bytes": total([process.memory_bytes for process in processes]),
        "cpu_percent": total([process.cpu_percent for process in processes]),
        "processes": len(processes),
    }


def _condition(collector: Collector) -> tuple[str, str]:
    nodes = collector.nodes
    count = len(nodes)
    down = [view.address.name for view in nodes if view.contact is Contact.DOWN]
    serving = sum(1 for view in nodes if view.votes and view.reachable and view.status and view.status.consensus_serves)
    unknown = [view.address.name for view in nodes if view.contact is Contact.UNKNOWN]
    if unknown and collector.leader is None:
        return "starting", "Waiting for the first answers"
    if max(serving, _reach_of_leader(collector)) < collector.quorum:
        if len(down) == count:
            return "no_quorum", "NO QUORUM – no node answers"
        return "no_quorum", "NO QUORUM – writes are refused, stale reads go on"
    if collector.leader is None:
        return "no_leader", "NO LEADER – writes are refused"
    if down:
        verb = f"{len(down)} of {count} nodes down" if len(down) > 1 else f"{down[0]} is down"
        return "impaired", f"{verb} – still serving"
    troubled = unknown + [view.address.name for view in nodes if view.contact is Contact.LATE]
    if troubled:
        return "impaired", f"Serving – no answer from {', '.join(troubled)}"
    troubled = [view.address.name for view in nodes if view.status is not None and view.status.degraded]
    if troubled:
        return "impaired", f"Serving – {', '.join(troubled)} degraded"
    return "serving", "Serving"


def _reach_of_leader(collector: Collector) -> int:
    """Voters that the leader itself is connected to: the monitor may see fewer nodes than the leader does."""
    if collector.leader is None:
        return 0
    for view in collector.nodes:
        if view.address.id == collector.leader.node_id and view.contact is Contact.UP and view.status is not None:
            return 1 + sum(other.votes and other.address.id in view.status.peers_connected for other in collector.nodes)
    return collector.quorum  # known by the word of a quorum only


def _node(collector: Collector, view: NodeView, now_ns: int) -> dict[str, Any]:
    address, status = view.address, view.status
    known = {
        "id": address.id,
        "name": address.name,
        "http_address": address.http_address,
        "status_url": f"{address.http_url}/status",
        "contact": view.contact,
        "contact_ms": _age_ms(view.contact_since_ns or None, now_ns),
        "reason": view.reason,
        "age_ms": _age_ms(view.seen_ns, now_ns),
        "leads": collector.leader is not None and collector.leader.node_id == address.id,
        "lag": collector.lag(view),
        "writes_per_s": view.writes_per_s,
        "reads_per_s": view.reads_per_s,
        "status": None,
    }
    if status is not None:
        known["status"] = {
            "version": status.version,
            "role": view.role,
            "term": status.term,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
            "revision": status.revision,
            "last_index": status.last_index,
            "stable_index": status.stable_index,
            "flushed_index": status.flushed_index,
            "keys_estimate": status.keys_estimate,
            "cache_hits": status.cache_hits,
            "cache_misses": status.cache_misses,
            "connections": status.connections,
            "degraded": list(status.degraded),
            "memory_bytes": total([process.memory_bytes for process in status.processes]),
            "cpu_percent": total([process.cpu_percent for process in status.processes]),
            "restarts": total([process.restarts for process in status.processes]),
            "processes": [_process(process) for process in status.processes],
        }
    return known


def _process(process: Process) -> dict[str, Any]:
    return {
        "name": process.name,
        "pid": process.pid,
        "state": process.state,
        "uptime_s": process.uptime_s,
        "restarts": process.restarts,
        "last_exit": process.last_exit,
        "memory_bytes": process.memory_bytes,
        "cpu_percent": process.cpu_percent,
    }


def _sample(sample: Sample, node_ids: tuple[int, ...]) -> list[Any]:
    columns: list[list[Any]] = [_short(sample.writes_per_s), _short(sample.reads_per_s), list(sample.lag)]
    if sample.node_ids != node_ids:
        place = {node_id: index for index, node_id in enumerate(sample.node_ids)}
        columns = [[column[place[i]] if i in place else None for i in node_ids] for column in columns]
    return [sample.at_ms, *columns]


def _short(rates: tuple[float | None, ...]) -> list[float | None]:
    """One decimal is what a chart can show; the history is sent to every new reader."""
    return [None if rate is None else round(rate, 1) for rate in rates]


def _event(event: Event) -> dict[str, Any]:
    finding = event.finding
    return {
        "number": event.number,
        "at_ms": event.at_ms,
        "kind": finding.kind,
        "level": finding.level,
        "node": finding.node,
        "term": finding.term,
        "text": finding.text,
    }


def _age_ms(since_ns: int | None, now_ns: int) -> int | None:
    return None if since_ns is None else max(0, (now_ns - since_ns) // NS_PER_MS)
