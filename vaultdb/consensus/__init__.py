"""The consensus process: the Raft core driven by real time, a write-ahead log and the peers' sockets."""
