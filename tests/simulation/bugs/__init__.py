"""Bugs of real systems, planted into the real code. The simulation must find each.

A checker that finds none of them proves nothing when it finds nothing. Each names its rows of the catalogue of
failures, in how many seeds it must be found, and what the failure must say. Test-only: nothing of the product knows of
them.
"""

from tests.simulation.bugs import log, members, proposals, reads

__all__ = ["log", "members", "proposals", "reads"]
