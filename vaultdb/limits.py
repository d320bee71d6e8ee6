"""Every limit of the product, in one place. Over a limit a request is refused at the door, never later.

Units are last in the name. The relations between limits are checked when this module is loaded.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# What a client may send.
KEY_BYTES_MAX = 4 * KIB
VALUE_BYTES_MAX = 1 * MIB
COMMAND_BYTES_MAX = 4 * MIB
"""Keys and values of one atomic command, in sum."""
COMMAND_OPERATIONS_MAX = 10_000
HTTP_HEADER_BYTES_MAX = 32 * KIB
"""Request line and headers. A key percent-encoded is three times its size."""
HTTP_BODY_BYTES_MAX = 8 * MIB
"""Twice COMMAND_BYTES_MAX, for the escapes of JSON. A control character takes six bytes there: a command whose JSON
is larger than this must be sent as several smaller ones, or its values by PUT.
"""
ADMIN_BODY_BYTES_MAX = 64 * KIB
"""Body of a request to /cluster/…: a handful of changes of members."""

# What travels between processes and nodes.
BATCH_BYTES_MAX = 5 * MIB
"""Commands that one api message carries: at least one command always fits."""
ENTRY_BATCH_BYTES = 1 * MIB
"""The leader stops adding proposals to an entry past this; an entry holds at least one proposal."""
MESSAGE_BYTES_MAX = 16 * MIB
"""ZeroMQ MAXMSGSIZE: a peer that sends more is disconnected."""
APPEND_BYTES_MAX = 1 * MIB
"""Payload in one Append message, unless a single entry is larger."""
INFLIGHT_BYTES_MAX = 8 * MIB
"""Sent to one follower and not yet acknowledged."""
INFLIGHT_APPENDS_MAX = 256
APPLY_WINDOW_BYTES = 8 * MIB
"""Streamed from consensus to storage and not yet applied."""

# What a process may hold.
UNCOMMITTED_BYTES_MAX = 64 * MIB
"""Appended by the leader and not yet committed; above it proposals are refused as busy."""
PARKED_BYTES_MAX = 32 * MIB
"""Waiting in a consensus process for a leader."""
QUEUED_BYTES_MAX = 4 * MIB
"""Uncommitted commands answered early (ack=queued); above it they wait for the commit instead."""
READS_WAITING_MAX = 10_000
"""Batches of reads that wait for an index in one process."""
API_REQUESTS_MAX = 20_000
"""Operations that one api process has under way."""
API_OUTBOX_BYTES_MAX = 64 * MIB
"""Held by one api process while its consensus or storage process restarts."""
HTTP_CONNECTIONS_MAX = 4096
SOCKET_HWM_MESSAGES = 4096
DRAIN_MESSAGES_MAX = 512
"""Messages taken from one socket before the loop acts."""

# Names.
IPC_PATH_BYTES_MAX = 107
"""sun_path of Linux without its terminating NUL."""

assert KEY_BYTES_MAX + VALUE_BYTES_MAX <= COMMAND_BYTES_MAX < BATCH_BYTES_MAX
assert 2 * COMMAND_BYTES_MAX <= HTTP_BODY_BYTES_MAX
assert BATCH_BYTES_MAX + ENTRY_BATCH_BYTES < MESSAGE_BYTES_MAX
assert APPEND_BYTES_MAX + BATCH_BYTES_MAX + ENTRY_BATCH_BYTES < MESSAGE_BYTES_MAX
assert BATCH_BYTES_MAX < INFLIGHT_BYTES_MAX < UNCOMMITTED_BYTES_MAX
assert QUEUED_BYTES_MAX < UNCOMMITTED_BYTES_MAX
assert 3 * KEY_BYTES_MAX < HTTP_HEADER_BYTES_MAX
