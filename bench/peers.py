"""The systems that are measured: five processes or nodes each, on loopback, with every write synced to disk."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Protocol

import psutil

from bench.cluster import LocalCluster
from vaultdb import __version__
from vaultdb.clock import deadline_after_ms, ms_until, sleep_ms

VALUE = "x" * 100
KEYS = 100_000
LOAD_KEYS = 100
"""In one request of the load: etcd takes 128 operations in a transaction."""


class Peer(Protocol):
    """A running cluster and how wrk talks to it."""

    name: str
    version: str

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def load(self, keys: list[str]) -> None:
        """Set all of them to VALUE: what is read must be there."""
        ...

    def script(self, operation: str) -> tuple[str, str]:
        """(URL, Lua script for wrk) of an operation."""
        ...

    def pss_bytes(self) -> int:
        """Proportional memory of all its processes."""
        ...


class VaultDB:
    """Five nodes started by the launcher, as a user would; requests go to a follower."""

    name = "VaultDB"
    version = __version__

    def __init__(self) -> None:
        self._cluster = LocalCluster(5)
        self._follower = 0

    def start(self) -> None:
        self._cluster.start()
        self._follower = (self._cluster.leader() + 1) % 5

    def stop(self) -> None:
        self._cluster.close()

    def load(self, keys: list[str]) -> None:
        body = json.dumps(dict.fromkeys(keys, VALUE)).encode()
        status = self._cluster.request(self._follower, "POST", "/key", body).status
        assert status == 200, f"VaultDB answered {status} to the load"

    def script(self, operation: str) -> tuple[str, str]:
        url = f"http://127.0.0.1:{self._cluster.base_port + self._follower}"
        if operation == "put":
            return url, _lua("PUT", '"/key/" .. key', f'"{VALUE}"')
        level = {"get stale": "?consistency=stale", "get linearizable": ""}[operation]
        return url, _lua("GET", f'"/key/" .. key .. "{level}"', "nil")

    def pss_bytes(self) -> int:
        nodes = range(self._cluster.nodes)
        pids = [pid for node in nodes for pid in self._cluster.pids(node).values()]
        return sum(psutil.Process(pid).memory_full_info().pss for pid in pids)


class Etcd:
    """Debian's etcd-server through its JSON gateway, five members; requests go to a follower."""

    name = "etcd"

    def __init__(self) -> None:
        found = shutil.which("etcd")
        if found is None:
            raise FileNotFoundError("etcd is not installed (apt install etcd-server)")
        self._binary = found
        self.version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.split()[2]
        self._data = Path(tempfile.mkdtemp(prefix="etcd-bench"))
        self._members: list[subprocess.Popen[bytes]] = []
        self._follower = 23790

    def start(self) -> None:
        cluster = ",".join(f"m{n}=http://127.0.0.1:{23800 + n}" for n in range(5))
        for n in range(5):
            client, peer = f"http://127.0.0.1:{23790 + n}", f"http://127.0.0.1:{23800 + n}"
            command = [self._binary, "--name", f"m{n}", "--data-dir", str(self._data / f"m{n}")]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", cluster, "--initial-cluster-state", "new", "--log-level", "error"]
            self._members.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        deadline_ns = deadline_after_ms(20_000)
        while ms_until(deadline_ns) > 0:
            with contextlib.suppress(OSError, ValueError, KeyError):
                statuses = [get_json(23790 + n, "/v3/maintenance/status", b"{}") for n in range(5)]
                leader = statuses[0]["leader"]
                followers = [n for n in range(5) if statuses[n]["header"]["member_id"] != leader]
                if leader != "0":
                    self._follower = 23790 + followers[0]
                    return
            sleep_ms(100)
        raise TimeoutError("etcd elected no leader within 20 s")

    def load(self, keys: list[str]) -> None:
        value = base64.b64encode(VALUE.encode()).decode()
        puts = [{"requestPut": {"key": base64.b64encode(key.encode()).decode(), "value": value}} for key in keys]
        answer = get_json(self._follower, "/v3/kv/txn", json.dumps({"success": puts}).encode())
        assert answer.get("succeeded"), f"etcd answered {answer} to the load"

    def stop(self) -> None:
        for member in self._members:
            member.terminate()
        for member in self._members:
            member.wait(10)
        shutil.rmtree(self._data, ignore_errors=True)

    def script(self, operation: str) -> tuple[str, str]:
        url = f"http://127.0.0.1:{self._follower}"
        if operation == "put":
            value = base64.b64encode(VALUE.encode()).decode()
            body = f"""'{{"key":"' .. b64(key) .. '","value":"{value}"}}'"""
            return url, _lua("POST", '"/v3/kv/put"', body)
        serializable = ',"serializable":true' if operation == "get stale" else ""
        return url, _lua("POST", '"/v3/kv/range"', f"""'{{"key":"' .. b64(key) .. '"{serializable}}}'""")

    def pss_bytes(self) -> int:
        pids = {member.pid for member in self._members}
        return sum(psutil.Process(pid).memory_full_info().pss for pid in pids)


def load_all(peer: Peer) -> None:
    keys = [f"bench-{number:08d}" for number in range(1, KEYS + 1)]
    for at in range(0, KEYS, LOAD_KEYS):
        peer.load(keys[at : at + LOAD_KEYS])


def _lua(method: str, path: str, body: str) -> str:
    """A wrk script: random keys out of KEYS, seeded per thread."""
    return f"""
local alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
function b64(s)
  local out = {{}}
  for i = 1, #s, 3 do
    local a, b, c = s:byte(i, i + 2)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    for shift = 18, 0, -6 do
      local at = math.floor(n / 2 ^ shift) % 64 + 1
      out[#out + 1] = alphabet:sub(at, at)
    end
    if not b then out[#out - 1] = '=' end
    if not c then out[#out] = '=' end
  end
  return table.concat(out)
end
function init(args) math.randomseed(42) end
function request()
  local key = string.format('bench-%08d', math.random({KEYS}))
  return wrk.format('{method}', {path}, nil, {body})
end
"""


def get_json(port: int, path: str, body: bytes | None = None) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()
