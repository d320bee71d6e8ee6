"""The storage process: the state machine on RocksDB, a cache over it, and the answers to reads."""
