"""The three processes of a node. Importing this imports all that they need: do it before forking, so that the memory
is shared.
"""

from __future__ import annotations

from collections.abc import Mapping

from vaultdb.api import process as api
from vaultdb.consensus import process as consensus
from vaultdb.storage import process as storage
from vaultdb.supervisor.supervisor import ProcessMain

MAINS: Mapping[str, ProcessMain] = {"consensus": consensus.run, "storage": storage.run, "api": api.run}
