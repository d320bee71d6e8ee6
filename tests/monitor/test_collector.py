"""The monitor's view of a scripted cluster, on a fake clock."""

from __future__ import annotations

from typing import Any

import pytest

from monitor import limits
from monitor.collector import Collector, Contact
from monitor.reading import read_status
from monitor.report import cluster_summary, report
from tests.monitor.fakes import configuration, member, process, status, with_members
from vaultdb.clock import NS_PER_MS

PORTS = [21001, 21002, 21003, 21004, 21005]


class Script:
    """Five nodes that answer what the test says, one poll a second."""

    def __init__(self, *, poll_ms: int = 1000) -> None:
        self.collector = Collector(configuration(PORTS, poll_ms=poll_ms))
        self.now_ms = 50_000
        self.answers: dict[int, dict[str, Any] | str] = {i: status(i) for i in range(5)}
        """A status, or the reason why there is none ("refused" means just that)."""

    def elect(self, leader_id: int | None, term: int) -> None:
        for i, answer in self.answers.items():
            if isinstance(answer, dict):
                self.answers[i] = answer | status(i, leader_id=leader_id, term=term)

    def api(self, node_id: int, **changes: Any) -> None:
        answer = self.answers[node_id]
        assert isinstance(answer, dict)
        self.answers[node_id] = answer | {"api": answer["api"] | changes}

    def tell(self, *members: dict[str, Any], index: int) -> None:
        """Whoever answers has this membership in its log."""
        for i, answer in self.answers.items():
            if isinstance(answer, dict):
                self.answers[i] = with_members(answer, *members, index=index)

    def names(self) -> list[str]:
        return [node["name"] for node in self.report()["nodes"]]

    def poll(self, rounds: int = 1, *, every_ms: int = 1000) -> list[str]:
        """Rounds of polls; returns the texts of the events that they brought."""
        before = self.collector.version
        for _ in range(rounds):
            self.now_ms += every_ms
            now_ns = self.now_ms * NS_PER_MS
            for i, answer in self.answers.items():
                if isinstance(answer, str):
                    self.collector.unanswered(i, answer, refused=answer == "refused", now_ns=now_ns)
                else:
                    self.collector.answered(i, read_status(answer), now_ns)
            self.collector.turn(now_ns, 1_000_000 + self.now_ms, sample=True)
        return [event.finding.text for event in self.collector.events.since(before)]

    def summary(self) -> dict[str, Any]:
        return cluster_summary(self.collector, self.now_ms * NS_PER_MS)

    def report(self, since: int = 0) -> dict[str, Any]:
        return report(self.collector, incarnation="i", since=since, now_ns=self.now_ms * NS_PER_MS, wall_ms=self.now_ms)


@pytest.fixture
def script() -> Script:
    return Script()


def test_before_the_first_answer_nothing_is_claimed(script: Script) -> None:
    """Guards: a monitor that has just started says that it waits, not that the cluster is down."""
    assert script.summary()["condition"] == "starting"
    assert [node["contact"] for node in script.report()["nodes"]] == ["unknown"] * 5


def test_nodes_that_start_are_not_called_down(script: Script) -> None:
    """Guards: a monitor that starts with its cluster tells no losses; a node that stays away is down after a grace."""
    healthy = dict(script.answers)
    script.answers = dict.fromkeys(range(5), "refused")
    assert script.poll(2) == []
    assert script.summary()["condition"] == "starting"
    script.answers = healthy | {4: "refused"}
    assert script.poll() == ["node0 leads in term 3"]
    assert script.summary()["headline"] == "Serving – no answer from node4"
    assert script.poll() == ["node4 is down: refused"]


def test_healthy_cluster(script: Script) -> None:
    """Guards the headline of the normal case."""
    assert script.poll() == ["node0 leads in term 3"]
    summary = script.summary()
    assert (summary["condition"], summary["leader"], summary["term"]) == ("serving", "node0", 3)
    assert (summary["nodes_up"], summary["nodes_total"], summary["quorum"]) == (5, 5, 3)
    assert script.poll(5) == []


def test_leader_change_between_two_polls(script: Script) -> None:
    """Guards: a change faster than the polls is still told, from whom to whom and with the terms."""
    script.poll()
    script.elect(3, 5)
    assert "node0 → node3 leads now, term 3 → 5" in script.poll()
    assert script.summary()["leader"] == "node3"


def test_same_leader_in_a_new_term(script: Script) -> None:
    """Guards: a re-election of the same node is not silent."""
    script.poll()
    script.elect(0, 4)
    assert script.poll() == ["node0 leads again, term 3 → 4"]


def test_leader_killed_then_replaced(script: Script) -> None:
    """Guards the story of a killed leader: lost, no leader (writes refused), the new one and how long it took."""
    script.poll()
    script.answers[0] = "refused"
    script.elect(None, 3)
    texts = script.poll(2)
    assert "node0 is down: refused" in texts
    assert "no leader: node0 led in term 3; writes are refused" in texts
    assert script.summary()["condition"] == "no_leader"
    assert script.summary()["headline"] == "NO LEADER – writes are refused"
    assert script.summary()["leaderless_ms"] == 1000
    script.elect(2, 4)
    assert script.poll() == ["node0 → node2 leads now, term 3 → 4; none was seen for 2.0 s"]
    assert script.summary()["headline"] == "node0 is down – still serving"
    assert script.summary()["condition"] == "impaired"


def test_paused_old_leader_does_not_hide_the_new_one(script: Script) -> None:
    """Guards: of two nodes that say they lead, the higher term counts. Planted bug caught: first claim wins."""
    script.poll()
    old = script.answers[0]
    script.elect(4, 6)
    script.answers[0] = old
    script.poll()
    assert script.summary()["leader"] == "node4"


def test_refused_is_down_at_once_but_one_timeout_is_only_late(script: Script) -> None:
    """Guards: a slow answer is no false alarm, a dead process is told at the first poll."""
    script.poll()
    script.answers[1], script.answers[2] = "refused", "no answer within 900 ms"
    assert script.poll() == ["node1 is down: refused"]
    views = script.collector.nodes
    assert (views[1].contact, views[2].contact) == (Contact.DOWN, Contact.LATE)
    assert script.poll() == ["node2 is down: no answer within 900 ms"]
    assert script.summary()["headline"] == "2 of 5 nodes down – still serving"


def test_node_comes_back(script: Script) -> None:
    """Guards: the return is told with the time away, once."""
    script.poll()
    healthy = script.answers[3]
    script.answers[3] = "refused"
    script.poll(12)
    script.answers[3] = healthy
    assert script.poll() == ["node3 is back after 12 s"]
    assert script.poll() == []
    assert script.summary()["condition"] == "serving"


def test_no_quorum(script: Script) -> None:
    """Guards: with three of five gone the page says that writes are refused, whatever a stale answer claims."""
    script.poll()
    lonely = script.answers[0]
    assert isinstance(lonely, dict)
    cut_off = [{"id": peer, "connected": peer == 1} for peer in range(1, 5)]
    script.answers = dict.fromkeys(range(5), "refused")
    script.answers[0] = lonely | {"consensus": lonely["consensus"] | {"peers": cut_off}}
    script.answers[1] = status(1)
    script.poll()
    assert script.summary()["condition"] == "no_quorum"
    script.answers = dict.fromkeys(range(5), "refused")
    script.poll()
    assert script.summary()["headline"] == "NO QUORUM – no node answers"


def test_leader_reaches_nodes_that_the_monitor_does_not(script: Script) -> None:
    """Guards: a monitor that is cut off from three nodes does not cry that the cluster has no quorum."""
    script.poll()
    for i in (2, 3, 4):
        script.answers[i] = "refused"
    script.poll()
    assert script.summary()["headline"] == "3 of 5 nodes down – still serving"


def test_leader_without_api_is_believed_on_the_word_of_a_quorum(script: Script) -> None:
    """Guards: only the leader's api is down, its followers go on following it: that is no missing leader."""
    script.poll()
    script.answers[0] = "refused"
    script.poll()
    assert script.summary()["condition"] == "no_leader"
    script.poll(2)
    assert script.summary()["headline"] == "node0 is down – still serving"
    assert script.summary()["leader"] == "node0"


def test_process_restart(script: Script) -> None:
    """Guards: which process, why the old one ended, both pids. Also over polls in which it was not running."""
    script.poll()
    changed = status(2)
    changed["processes"][0] = process("consensus", 9999, restarts=1, last_exit=-9)
    waiting = status(2)
    waiting["processes"][0] = process("consensus", None, state="backoff", restarts=1, last_exit=-9)
    script.answers[2] = waiting
    assert script.poll(2) == []
    script.answers[2] = changed
    assert script.poll() == ["node2: consensus restarted (killed by SIGKILL), pid 4021 → 9999, restart 1"]
    assert script.poll(3) == []


def test_reused_pid_is_a_restart(script: Script) -> None:
    """Guards: identity is pid and creation time. Planted bug caught: comparing pids only."""
    script.poll()
    changed = status(2)
    changed["processes"][2] |= {"create_time": 5.0, "restarts": 1}
    script.answers[2] = changed
    assert script.poll() == ["node2: api restarted, pid 4023 → 4023, restart 1"]


def test_whole_node_started_anew_is_one_event(script: Script) -> None:
    """Guards: a restarted node does not fill the list with one line a process."""
    script.poll()
    script.answers[1] = "refused"
    script.poll()
    script.answers[1] = status(
        1, processes=[process(n, 800 + i) for i, n in enumerate(["consensus", "storage", "api"])]
    )
    assert script.poll() == ["node1 is back after 1 s", "node1 was started anew, all its processes are new"]


def test_degraded_and_whole_again(script: Script) -> None:
    """Guards: a node that answers but misses a part is told, and so is its recovery."""
    script.poll()
    script.answers[4] = status(4, degraded=["storage"], storage=None)
    assert script.poll() == ["node4 is degraded: storage"]
    assert script.summary()["headline"] == "Serving – node4 degraded"
    script.answers[4] = status(4)
    assert script.poll() == ["node4 is whole again"]


def test_candidates_and_stepping_down_are_told(script: Script) -> None:
    """Guards: changes of role of note, and not each return to follower."""
    script.poll()
    script.answers[4] = status(4, role="candidate", term=9, leader_id=None)
    assert script.poll() == ["node4 stands for election, it is candidate now"]
    script.answers[4] = status(4)
    assert script.poll() == []
    script.elect(None, 3)
    assert "node0 stepped down, it is follower now" in script.poll()


def test_rates_come_from_counters_and_real_intervals(script: Script) -> None:
    """Guards: writes/s and reads/s per node and in sum, also when a poll was late."""
    script.poll()
    script.api(1, writes_total=5000 + 300, reads_total=9000 + 900)
    script.poll(every_ms=1500)
    sample = script.report()["samples"][-1]
    assert sample[1] == [0.0, 200.0, 0.0, 0.0, 0.0]
    assert sample[2] == [0.0, 600.0, 0.0, 0.0, 0.0]
    assert script.summary()["writes_per_s"] == pytest.approx(200)


def test_counter_reset_makes_a_gap_and_no_spike(script: Script) -> None:
    """Guards: a restarted api gives no negative and no huge rate. Planted bug caught: incarnation not compared."""
    script.poll(2)
    script.api(1, incarnation=1, writes_total=90_000)
    script.poll()
    script.api(2, writes_total=10)
    script.poll()
    script.api(1, writes_total=90_050)
    script.poll()
    node1 = [sample[1][1] for sample in script.report()["samples"]]
    node2 = [sample[1][2] for sample in script.report()["samples"]]
    assert node1 == [None, 0.0, None, 0.0, 50.0]
    assert node2 == [None, 0.0, 0.0, None, 0.0]


def test_lag_is_counted_from_the_leader(script: Script) -> None:
    """Guards: lag = the leader's commit index − own applied index, never negative, unknown without both."""
    script.answers[0] = status(0, commit_index=1500)
    script.answers[2] = status(2, applied_index=1600)
    script.answers[3] = status(3, applied_index=None)
    script.answers[4] = "refused"
    script.poll()
    assert script.report()["samples"][-1][3] == [300, 300, 0, None, None]
    script.answers[0] = "refused"
    script.poll()
    assert script.report()["samples"][-1][3] == [None] * 5


def test_old_data_keeps_its_age(script: Script) -> None:
    """Guards: last known figures stay, with their age and how long the node has been down."""
    script.poll()
    script.answers[1] = "refused"
    script.poll(12)
    node = script.report()["nodes"][1]
    assert (node["contact"], node["contact_ms"], node["age_ms"]) == ("down", 11_000, 12_000)
    assert node["status"]["commit_index"] == 1200
    assert node["writes_per_s"] is None


def test_history_and_events_are_bounded() -> None:
    """Guards: a monitor that runs for months holds 15 minutes and 500 events, whatever happens."""
    script = Script(poll_ms=1)
    assert script.collector.poll_ms == limits.POLL_MS_MIN
    healthy = script.answers[1]
    for _ in range(2000):
        script.answers[1] = "refused" if script.answers[1] == healthy else healthy
        script.poll(2, every_ms=250)
    full = script.report()
    assert len(full["samples"]) == limits.HISTORY_MS // limits.POLL_MS_MIN == 3600
    assert len(full["events"]) == limits.EVENTS_MAX


def test_reports_since_a_version_hold_only_what_is_newer(script: Script) -> None:
    """Guards: a page that follows the stream gets each sample and each event exactly once."""
    script.poll(3)
    first = script.report()
    script.elect(1, 4)
    script.poll(2)
    later = script.report(first["version"])
    assert (first["full"], later["full"]) == (True, False)
    assert len(first["samples"]) == 3
    assert len(later["samples"]) == 2
    numbers = [event["number"] for event in first["events"] + later["events"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert first["samples"] + later["samples"] == script.report()["samples"]


FIVE = [member(i) for i in range(5)]


def test_a_node_that_joins_is_watched(script: Script) -> None:
    """Guards: who joined is on the page without a word in the configuration, as a learner, then as a voter."""
    script.tell(*FIVE, index=1)
    script.poll(2)
    script.tell(*FIVE, member(5, role="learner"), index=9)
    assert script.poll() == ["node5 joined as a learner"]
    assert [view.address.http_port for view in script.collector.nodes][-1] == 21_006
    script.answers[5] = with_members(status(5), *FIVE, member(5, role="learner"), index=9)
    assert script.poll() == []
    assert script.report()["nodes"][5]["status"]["role"] == "learner"
    assert (script.summary()["nodes_total"], script.summary()["quorum"]) == (6, 3)
    script.tell(*FIVE, member(5), index=12)
    assert script.poll() == ["node5 is a voter now"]
    assert script.report()["nodes"][5]["status"]["role"] == "follower"
    assert script.summary()["quorum"] == 4


def test_a_node_that_was_removed_is_gone(script: Script) -> None:
    """Guards: neither its silence nor its late answer nor its own old word matter any more."""
    script.tell(*FIVE, index=1)
    script.poll()
    old = script.answers[4]
    script.tell(*FIVE[:4], index=20)
    script.answers[4] = old
    assert script.poll() == ["node4 was removed from the cluster"]
    assert script.names() == ["node0", "node1", "node2", "node3"]
    assert script.poll(3) == []
    script.answers[4] = "refused"
    assert script.poll(3) == []
    assert (script.summary()["condition"], script.summary()["quorum"]) == ("serving", 3)


def test_the_membership_at_the_start_is_no_event(script: Script) -> None:
    """Guards: a monitor that starts late does not tell of what happened before."""
    script.tell(*FIVE[:3], member(7), index=40)
    assert script.poll() == ["node0 leads in term 3"]
    assert script.names() == ["node0", "node1", "node2", "node7"]


def test_an_older_membership_changes_nothing(script: Script) -> None:
    """Guards: a follower that lags, or a removed node that is asked once more, does not bring old members back."""
    script.tell(*FIVE, member(5), index=9)
    script.poll()
    script.answers[3] = with_members(status(3), *FIVE, index=1)
    assert script.poll() == []
    script.answers[0] = "refused"
    script.answers = {i: answer if i == 3 else "refused" for i, answer in script.answers.items()}
    script.poll(2)
    assert script.names()[-1] == "node5"


def test_a_change_that_was_taken_back_is_taken_back(script: Script) -> None:
    """Guards: a membership counts from its place in the log on, and goes with it when a new leader has another one."""
    script.tell(*FIVE, index=1)
    script.poll()
    script.tell(*FIVE, member(5), index=9)
    script.poll()
    script.tell(*FIVE, index=1)
    script.elect(1, 4)
    for i in range(5):
        script.answers[i] = with_members(status(i, leader_id=1, term=4), *FIVE, index=1)
    assert "node5 was removed from the cluster" in script.poll()
    assert len(script.names()) == 5


def test_a_joined_node_may_lead(script: Script) -> None:
    """Guards: the leader is found among the nodes that joined."""
    script.tell(*FIVE, member(5), index=9)
    script.poll()
    script.answers[5] = with_members(status(5, leader_id=5, term=4), *FIVE, member(5), index=9)
    script.elect(5, 4)
    script.tell(*FIVE, member(5), index=9)
    assert "node0 → node5 leads now, term 3 → 4" in script.poll()
    assert script.summary()["leader"] == "node5"


def test_learners_make_no_quorum(script: Script) -> None:
    """Guards: three voters of five are gone; two learners more do not change that. Planted bug: counting them."""
    learners = [member(i, role="learner") for i in (5, 6)]
    for i in (5, 6):
        script.answers[i] = status(i)
    script.tell(*FIVE, *learners, index=9)
    script.poll(2)
    lonely = script.answers[0]
    assert isinstance(lonely, dict)
    reached = [{"id": peer, "connected": peer in (1, 5, 6)} for peer in range(1, 7)]
    script.answers[0] = lonely | {"consensus": lonely["consensus"] | {"peers": reached}}
    for i in (2, 3, 4):
        script.answers[i] = "refused"
    script.poll()
    assert script.summary()["condition"] == "no_quorum"


def test_columns_follow_the_nodes(script: Script) -> None:
    """Guards: after a removal no line of a chart goes on with another node's values, and readers get all anew."""
    script.tell(*FIVE, index=1)
    script.poll(2)
    script.api(3, writes_total=5000 + 70)
    script.poll()
    before = script.report()
    assert before["samples"][-1][1] == [0.0, 0.0, 0.0, 70.0, 0.0]
    script.tell(FIVE[0], *FIVE[2:], member(5), index=9)
    script.poll()
    after = script.report(before["version"])
    assert after["full"]
    assert [node["name"] for node in after["nodes"]] == ["node0", "node2", "node3", "node4", "node5"]
    assert after["samples"][2][1] == [0.0, 0.0, 70.0, 0.0, None]
    assert not script.report(after["version"])["full"]
