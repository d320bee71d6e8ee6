"""The parent of a node's three processes: starts, watches, restarts and stops them. Never a ZeroMQ context, RocksDB
or thread.
"""
