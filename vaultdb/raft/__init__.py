"""Raft as a pure state machine: no I/O, no clock, no threads, no global randomness."""
