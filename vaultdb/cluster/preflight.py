"""What is checked before anything is started: is the data free, and are the ports."""

from __future__ import annotations

import socket

from vaultdb.config import Config
from vaultdb.errors import AddressTaken, AlreadyOwned
from vaultdb.supervisor.ownership import lock_holder


def check_data_free(config: Config) -> None:
    """Raises AlreadyOwned when a node's data directory has a living owner; names all of them."""
    nodes = [config.node(address.id) for address in config.nodes]
    taken = [
        f"{node.data_dir} is in use by {holder}"
        for node in nodes
        if (holder := lock_holder(node.lock_path)) is not None
    ]
    if taken:
        raise AlreadyOwned("; ".join(taken))


def check_ports_free(config: Config) -> None:
    """Raises AddressTaken, naming every port that cannot be bound and why."""
    wanted = [
        (address.host, port, f"{address.name} {use}")
        for address in config.nodes
        for use, port in (("http", address.http_port), ("peer", address.peer_port), ("native", address.native_port))
    ]
    wanted.append((config.monitor.host, config.monitor.port, "monitor"))
    faults = [f"{host}:{port} ({use}): {fault}" for host, port, use in wanted if (fault := _fault_of(host, port))]
    if faults:
        raise AddressTaken(f"cannot listen on {', '.join(faults)}")


def _fault_of(host: str, port: int) -> str | None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family, backlog=1).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
