"""The messages between the three processes of one node.

Each is a msgpack array whose first element is a kind of this module. The two ROUTER sockets (consensus, storage) are
bound by their owners; peers connect with a DEALER whose routing id is API or STORAGE below, so a restarted process
takes its predecessor's place (ROUTER_HANDOVER). `incarnation` is drawn at random by a process at its start: what
belongs to a predecessor is recognised and dropped. `deadline_ns` is on the machine's monotonic clock. A *batch* is
what one process sent in one turn of its loop; its number is unique within an incarnation.

api → consensus
    PROPOSE, incarnation, batch, deadline_ns, queued, payload
        payload: the bytes of one PROPOSAL (below), which consensus never opens. queued: answer before commit, if the
        leader's asynchronous queue has room.
    READ_INDEX, incarnation, batch, deadline_ns
        For which applied index must a linearizable read wait? One question for all reads of a turn.
    STATUS, incarnation, batch
    ADMIN, incarnation, batch, deadline_ns, operation, argument
        A question or an order about the members; operations and their arguments: api/cluster_requests.py.

consensus → api
    REJECTED, incarnation, batch, code, sentence, retry_after_s
        Answer to PROPOSE or READ_INDEX: none of its commands happened or will (code: errors.REJECTIONS).
    QUEUED, incarnation, batch, accepted
        Answer to PROPOSE with queued: True, the commands stand in the leader's replication queue; False, the queue is
        full and the RESULTS of the commit will answer.
    READ_STATE, incarnation, batch, index
    ADMIN_DONE, incarnation, batch, document
        Answer to ADMIN; a refusal comes as REJECTED.
    STATUS_IS, incarnation, batch, {field: value}

storage → consensus
    SUBSCRIBE, incarnation, applied_index, flushed_index
        Stream committed entries from applied_index + 1. Sent at the start and whenever the connection is made anew.
    APPLIED, incarnation, applied_index, flushed_index
        Well before the window is full, every 100 ms while entries are applied, and after a flush. flushed_index:
        durable in RocksDB; the log may be cut below it.

consensus → storage
    ENTRIES, incarnation, first_index, [payload, ...]
        incarnation: the subscriber's. Consecutive committed entries; a payload is an ENTRY (below) or empty (no-op).

api → storage
    READ, incarnation, batch, min_index, deadline_ns, [key, ...]
        Answered once applied_index ≥ min_index (0: at once). Dropped silently past its deadline.
    DIGEST, incarnation, batch
        The state hash; a scan in slices, so it may take seconds.
    STATUS, incarnation, batch

storage → api
    VALUES, incarnation, batch, applied_index, revision, [nil | [value, revision], ...]
        In the order of the keys. Values too large for one message come in several VALUES of the same batch, one right
        after the other and from the same state: the batch is answered once there are as many values as keys.
    RESULTS, incarnation, [[request, outcome, revision, count], ...]
        Of commands whose origin is this node and this api incarnation. outcome: 0 done, 1 rejected by the state
        machine. revision: of this command, or the current one when it changed nothing. count: keys written or
        deleted.
    DIGEST_IS, incarnation, batch, applied_index, revision, keys, hexdigest
    STATUS_IS, incarnation, batch, {field: value}

Opaque bytes inside these messages
    PROPOSAL  = [[request, command], ...]                  written by api, opened by storage
    ENTRY     = [stamp_ms, [[origin, incarnation, batch, PROPOSAL], ...]]
        written by the leader's consensus: origin is the node id whose api asked; stamp_ms is the leader's wall clock.
"""

from __future__ import annotations

API = b"api"
STORAGE = b"storage"

PROPOSE = 1
READ_INDEX = 2
STATUS = 3
REJECTED = 4
QUEUED = 5
READ_STATE = 6
STATUS_IS = 7
SUBSCRIBE = 8
APPLIED = 9
ENTRIES = 10
READ = 11
DIGEST = 12
VALUES = 13
RESULTS = 14
DIGEST_IS = 15
ADMIN = 16
ADMIN_DONE = 17

DONE = 0
REFUSED = 1
