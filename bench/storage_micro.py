"""How fast one storage process can apply and read, without sockets: state machine, cache and RocksDB in one thread.

    python bench/storage_micro.py [--keys 200000] [--value-bytes 100] [--dir DIRECTORY]

Each line is one run over all keys, in random order: the rate by the clock, and the processor time of this thread, which
tells more on a machine that is shared. The collector is set as in the process. A "turn" is what the process applies
between two RocksDB batches.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from vaultdb import limits
from vaultdb.config import StorageSettings
from vaultdb.kv import commands
from vaultdb.kv.machine import Machine
from vaultdb.lifeline import calm_garbage_collector
from vaultdb.storage.cache import Cache
from vaultdb.storage.digest import StateDigest
from vaultdb.storage.engine import Engine
from vaultdb.storage.entries import decode_entry
from vaultdb.storage.flusher import Flusher
from vaultdb.storage.store import CachedStore
from vaultdb.wire.codec import pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--dir", type=Path, default=None)
    arguments = parser.parse_args()
    calm_garbage_collector()
    directory = Path(tempfile.mkdtemp(prefix="vdb-bench", dir=arguments.dir))
    try:
        measure(directory / "db", arguments.keys, arguments.value_bytes)
    finally:
        shutil.rmtree(directory)


def measure(path: Path, keys_count: int, value_bytes: int) -> None:
    keys = [b"key/%012d" % number for number in range(keys_count)]
    value = random.Random(1).randbytes(value_bytes)
    settings = StorageSettings()
    engine = Engine(path, settings)
    cache = Cache(settings.cache_bytes)
    store = CachedStore(engine, cache)
    machine = Machine(store)
    flusher = Flusher(engine, settings)

    def apply(entries: list[bytes]) -> None:
        for payload in entries:
            index = machine.applied_index + 1
            stamp_ms, proposals = decode_entry(index, payload)
            machine.begin(index, stamp_ms)
            for proposal in proposals:
                machine.apply(proposal.requests)
            machine.write()
            flusher.poll(time.monotonic_ns())

    print(f"{keys_count} keys, values of {value_bytes} bytes, cache {settings.cache_bytes // limits.MIB} MiB")
    for per_command, commands_per_turn in ((1, 1), (1, 100), (1, 1000), (10, 64), (100, 16), (1000, 4)):
        entries = put_entries(shuffled(keys), value, per_command, commands_per_turn)
        title = f"put, {per_command} a command, {commands_per_turn} a turn"
        report(title, keys_count, partial(apply, entries))
    for per_read in (1, 10, 100):
        wanted = shuffled(keys)[: min(keys_count, 100_000)]
        store.read(wanted)
        misses = cache.misses
        report(f"get, {per_read} a read, cached", len(wanted), partial(read, store, wanted, per_read))
        assert cache.misses == misses, "the cache is too small for this measurement"
    engine.flush()
    for per_read in (1, 10, 100):
        wanted = shuffled(keys)
        report(f"get, {per_read} a read, from RocksDB", keys_count, partial(read, engine, wanted, per_read))
    report("state hash", keys_count, partial(run_digest, engine))
    entries = delete_entries(shuffled(keys), 100)
    report("delete, 1 a command, 100 a turn", keys_count, partial(apply, entries))
    flusher.close()
    engine.close()


def shuffled(keys: list[bytes]) -> list[bytes]:
    return random.Random(len(keys)).sample(keys, len(keys))


def in_groups(items: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def entry(requests: list[list[object]]) -> bytes:
    return pack([1, [[0, 1, 1, pack(requests)]]])


def put_entries(keys: list[bytes], value: bytes, per_command: int, commands_per_turn: int) -> list[bytes]:
    return [
        entry(
            [
                [number, commands.put((key, value) for key in group)]
                for number, group in enumerate(in_groups(turn, per_command))
            ]
        )
        for turn in in_groups(keys, per_command * commands_per_turn)
    ]


def delete_entries(keys: list[bytes], commands_per_turn: int) -> list[bytes]:
    return [
        entry([[number, commands.delete([key])] for number, key in enumerate(turn)])
        for turn in in_groups(keys, commands_per_turn)
    ]


def read(source: CachedStore | Engine, keys: list[bytes], per_read: int) -> None:
    for group in in_groups(keys, per_read):
        source.read(group)


def run_digest(engine: Engine) -> None:
    digest = StateDigest(engine)
    while not digest.advance():
        pass


def report(title: str, keys_count: int, work: Callable[[], None]) -> None:
    started, cpu_started = time.perf_counter(), time.thread_time()
    work()
    rate = keys_count / (time.perf_counter() - started)
    cpu_us = (time.thread_time() - cpu_started) * 1e6 / keys_count
    print(f"{title:52}{rate:12,.0f} keys/s {cpu_us:8.2f} us of processor time each")


if __name__ == "__main__":
    main()
