"""The demo as a user runs it, on a cluster of its own and on fewer days."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.cluster import ROOT, LocalCluster
from vaultdb.demo import trading_days

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


def test_the_data_set_is_whole() -> None:
    days = trading_days()
    assert len(days) == 8313
    assert sum(len(day.prices) for day in days) == 166_260


def test_demo_on_a_running_cluster_exits_zero_and_says_what_it_verified(fresh_cluster: LocalCluster) -> None:
    done = fresh_cluster.launch("demo", "--days", "400")
    assert "All 8,000 prices are there" in done.stdout
    assert "All 5 nodes hold the same 8,020 keys" in " ".join(done.stdout.split())


def test_demo_notices_a_wrong_price(fresh_cluster: LocalCluster) -> None:
    """The verification can fail: here the data set of the demo has one price that was never written."""
    script = (
        "import sys; from vaultdb import cli, demo; days = demo.trading_days();"
        "whole = demo.Demo._verify\n"
        "async def verify(self):\n"
        "    self._days[7].prices['AAPL'] = '999.0'\n"
        "    return await whole(self)\n"
        "demo.Demo._verify = verify\n"
        f"sys.argv = ['launcher.py', 'demo', '--days', '100', '--config', {str(fresh_cluster.config_path)!r}]\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 of 2,020 prices are missing or wrong" in " ".join(done.stdout.split())
