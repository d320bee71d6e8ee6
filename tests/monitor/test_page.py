"""The page in a real browser, on fake nodes."""

from __future__ import annotations

import re

import pytest

from tests.monitor.browser import WatchedPage
from tests.monitor.fakes import FakeCluster, FakeNode, member, status, with_members
from tests.monitor.process import MonitorProcess

CHANGE_SHOWN_WITHIN_MS = 3000
DARK = "() => getComputedStyle(document.body).backgroundColor"


@pytest.mark.system
def test_page_tells_leader_changes_and_lost_nodes(
    cluster: FakeCluster, free_port: int, watched_page: WatchedPage
) -> None:
    """Guards the operators' promise: what happens to the cluster is on the page within 3 s, without a console error."""
    page = watched_page.page
    with MonitorProcess(cluster.http_ports, free_port) as monitor:
        page.goto(monitor.url)
        watched_page.wait_for_text("#headline-text", "Serving", within_ms=5000)
        assert watched_page.text("#headline-detail") == "Leader node0 · term 3 · 5 of 5 nodes up · quorum 3"
        assert "leader" in watched_page.text('[data-node="node0"] .badge')
        assert (
            page.locator('[data-node="node0"] a').get_attribute("href")
            == f"http://127.0.0.1:{cluster.nodes[0].port}/status"
        )
        for word in ("consensus", "pid 4031", "CPU 0.4 %", "6.2 MB", "0 restarts", "up 1 min 1 s"):
            assert word in watched_page.text('[data-node="node3"] .processes')

        cluster.nodes[0].stop()
        cluster.elect(2, 4)
        watched_page.wait_for_text("#headline-detail", "Leader node2 · term 4", within_ms=CHANGE_SHOWN_WITHIN_MS)
        assert watched_page.text("#headline-text") == "node0 is down – still serving"
        assert "leader" in watched_page.text('[data-node="node2"] .badge')
        assert re.search(r"down for \d s · data is \d s old", watched_page.text('[data-node="node0"] .condition'))
        watched_page.wait_for_text("#events", "node0 → node2 leads now, term 3 → 4", within_ms=CHANGE_SHOWN_WITHIN_MS)
        assert "node0 is down: connection refused" in watched_page.text("#events")

        cluster.serve(writes=700, reads=1400)
        page.wait_for_function("() => /[1-9]/.test(document.querySelector('#tile-writes').innerText)", timeout=5000)

        for i in (1, 3):
            cluster.nodes[i].stop()
        cluster.elect(None, 4)
        watched_page.wait_for_text("#headline-text", "NO QUORUM", within_ms=CHANGE_SHOWN_WITHIN_MS)
        assert page.title().startswith("✕ NO QUORUM")
        assert watched_page.errors == []


@pytest.mark.system
def test_page_by_keyboard_and_in_the_dark(cluster: FakeCluster, free_port: int, watched_page: WatchedPage) -> None:
    """Guards: everything works without a mouse, choices are remembered, both themes are there, phones are served."""
    page = watched_page.page
    with MonitorProcess(cluster.http_ports, free_port, poll_ms=250) as monitor:
        page.emulate_media(color_scheme="dark")
        page.goto(monitor.url)
        watched_page.wait_for_text("#headline-text", "Serving", within_ms=5000)
        by_system = page.evaluate(DARK)
        page.keyboard.press("t")
        assert page.evaluate(DARK) != by_system
        assert watched_page.text("#theme-name") == "light"
        page.keyboard.press("p")
        assert not page.locator('[data-node="node1"] .processes').is_visible()
        page.keyboard.press("w")
        page.reload()
        watched_page.wait_for_text("#headline-text", "Serving", within_ms=5000)
        assert page.evaluate(DARK) != by_system
        assert not page.locator('[data-node="node1"] .processes').is_visible()
        assert page.locator("input[value='15']").is_checked()

        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.className") == "skip"
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#help").is_visible()

        page.wait_for_function(
            "() => document.querySelector('#chart-writes .line-total')?.getAttribute('d')?.includes('L')"
        )
        page.keyboard.press("c")
        page.keyboard.press("ArrowLeft")
        assert page.locator("#chart-reads .crosshair").count() == 1
        assert re.match(r"\d\d:\d\d:\d\d", watched_page.text("#chart-reads .chart-when"))
        page.keyboard.press("Escape")
        assert page.locator(".crosshair").count() == 0

        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        assert watched_page.errors == []


@pytest.mark.system
def test_page_says_that_it_lost_the_monitor_and_finds_it_again(
    cluster: FakeCluster, free_port: int, watched_page: WatchedPage
) -> None:
    """Guards: old figures are never shown as if they were new; no reload is needed when the monitor is back."""
    with MonitorProcess(cluster.http_ports, free_port, poll_ms=250) as monitor:
        watched_page.page.goto(monitor.url)
        watched_page.wait_for_text("#link-text", "live", within_ms=5000)
    watched_page.wait_for_text("#lost", "This page has lost the monitor; figures are", within_ms=6000)
    assert watched_page.text("#headline-text") == "Last known: Serving"
    with MonitorProcess(cluster.http_ports, free_port, poll_ms=250):
        watched_page.wait_for_text("#link-text", "live", within_ms=15_000)
        watched_page.wait_for_text("#headline-text", "Serving", within_ms=1000)
        assert not watched_page.page.locator("#lost").is_visible()


@pytest.mark.system
def test_page_polls_where_no_stream_gets_through(
    cluster: FakeCluster, free_port: int, watched_page: WatchedPage
) -> None:
    """Guards: behind something that breaks event streams the page stays live. Planted bug caught: no fallback."""
    watched_page.page.route("**/api/stream*", lambda route: route.abort())
    with MonitorProcess(cluster.http_ports, free_port, poll_ms=250) as monitor:
        watched_page.page.goto(monitor.url)
        watched_page.wait_for_text("#link-text", "live, by polling", within_ms=8000)
        cluster.elect(1, 8)
        watched_page.wait_for_text("#headline-detail", "Leader node1 · term 8", within_ms=CHANGE_SHOWN_WITHIN_MS)


@pytest.mark.system
def test_page_follows_the_members(cluster: FakeCluster, free_port: int, watched_page: WatchedPage) -> None:
    """Guards: a node that joins appears as a learner with its own line, a removed one goes, without a reload."""
    joined = FakeNode(status(5))
    members = [member(i, port=node.port) for i, node in enumerate(cluster.nodes)]
    try:
        with MonitorProcess(cluster.http_ports, free_port, poll_ms=250) as monitor:
            page = watched_page.page
            page.goto(monitor.url)
            watched_page.wait_for_text("#headline-text", "Serving", within_ms=5000)
            for now, index in ((members, 1), ([*members, member(5, role="learner", port=joined.port)], 9)):
                for node in (*cluster.nodes, joined):
                    node.status = with_members(node.status, *now, index=index)
            watched_page.wait_for_text("#nodes", "node5", within_ms=CHANGE_SHOWN_WITHIN_MS)
            page.wait_for_function(
                """() => document.querySelector('[data-node="node5"] .badge')?.innerText === "learner" """,
                timeout=CHANGE_SHOWN_WITHIN_MS,
            )
            watched_page.wait_for_text("#headline-detail", "6 of 6 nodes up · quorum 3", within_ms=5000)
            for node in (*cluster.nodes, joined):
                node.status = with_members(node.status, *members[:1], *members[2:], index=12)
            watched_page.wait_for_text("#headline-detail", "4 of 4 nodes up", within_ms=CHANGE_SHOWN_WITHIN_MS)
            watched_page.wait_for_text("#events", "node1 was removed from the cluster", within_ms=5000)
            names = page.locator("#nodes .node-name").all_inner_texts()
            assert names == ["node0", "node2", "node3", "node4"]
            assert "hue-1" in (page.locator('[data-node="node2"] .node-name').get_attribute("class") or "")
            assert page.locator("#chart-writes .legend li").count() == 5
            assert watched_page.errors == []
    finally:
        joined.stop()
