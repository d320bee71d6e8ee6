"""What the monitor may hold, in one place. Units are last in the name."""

from __future__ import annotations

HISTORY_MS = 15 * 60 * 1000
"""Samples older than this are forgotten."""
POLL_MS_MIN = 250
"""A smaller monitor.poll_ms is taken as this: it bounds the history at 3,600 samples."""
POLL_TIMEOUT_MS_MAX = 900
SETTLE_MS = 250
"""A round is reported once every node answered, or after this; what comes later is reported when it comes."""
EVENTS_MAX = 500
STATUS_BYTES_MAX = 1024 * 1024
MEMBERS_MAX = 64
"""A membership with more is not believed."""
PROCESSES_MAX = 16
"""Processes shown of one node."""
TEXT_CHARACTERS_MAX = 200
"""Of a text that a node sends: names, versions, exit reasons."""
STREAMS_MAX = 32
CONNECTIONS_MAX = 128
SEND_TIMEOUT_MS = 10_000
"""A reader of the stream that takes nothing for this long is dropped."""
TIMEOUTS_UNTIL_DOWN = 2
"""Unanswered polls in sequence; a refused connection counts at once."""
STARTING_GRACE_MS = 3000
"""A node that has never answered may still be starting: it is called down only after this."""

assert POLL_TIMEOUT_MS_MAX > SETTLE_MS
