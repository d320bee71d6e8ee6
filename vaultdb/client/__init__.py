"""Talking to a cluster from outside."""
