"""Plain counters of the storage process, since its start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    commands_total: int = 0
    batches_total: int = 0
    """RocksDB batches: turns in which entries were applied."""
    flushes_total: int = 0
    reads_total: int = 0
    read_keys_total: int = 0
    reads_expired_total: int = 0
    """Arrived past their deadline."""
    reads_dropped_total: int = 0
    """No room to wait for their index."""
    digests_dropped_total: int = 0
    replies_dropped_total: int = 0
    results_dropped_total: int = 0
    """Results of commands whose api was not there to take them."""
    proposals_unreadable_total: int = 0
    entries_foreign_total: int = 0
    """Streamed for a predecessor's subscription."""
    gaps_total: int = 0
    messages_unreadable_total: int = 0
