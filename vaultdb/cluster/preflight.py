"""What is checked before anything is started or made: is the data free, are the ports, and is there room."""

from __future__ import annotations

import os
import socket

from vaultdb.cluster import record
from vaultdb.config import Config, NodeAddress, NodeConfig
from vaultdb.errors import AddressTaken, AlreadyOwned
from vaultdb.supervisor.ownership import check_space, lock_holder


def check(config: Config) -> None:
    """Raises AlreadyOwned, AddressTaken or IoFailed when the cluster cannot be started. Leaves nothing behind."""
    check_data_free(config)
    check_ports_free(config)
    check_space(config.data_path)
    for address in config.nodes:
        check_space(config.node(address.id).data_dir)


def check_node(node: NodeConfig) -> None:
    """The same for one node without its cluster. Raises AlreadyOwned or AddressTaken."""
    holder = lock_holder(node.lock_path)
    if holder is not None:
        raise AlreadyOwned(f"{node.data_dir} is in use by {holder}")
    _check_free(_ports_of(node.me))


def check_data_free(config: Config) -> None:
    """Raises AlreadyOwned when the data has a living launcher, or nodes of it have living owners; names all."""
    launcher = lock_holder(record.lock_path(config))
    if launcher is not None:
        raise AlreadyOwned(f"{config.data_path} is in use by {launcher}")
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
    wanted = [one for address in config.nodes for one in _ports_of(address)]
    _check_free([*wanted, (config.monitor.host, config.monitor.port, "monitor")])


def _ports_of(address: NodeAddress) -> list[tuple[str, int, str]]:
    uses = {"http": address.http_port, "peer": address.peer_port, "native": address.native_port}
    return [(address.host, port, f"{address.name} {use}") for use, port in uses.items()]


def _check_free(wanted: list[tuple[str, int, str]]) -> None:
    faults = [f"{host}:{port} ({use}): {fault}" for host, port, use in wanted if (fault := _fault_of(host, port))]
    if faults:
        raise AddressTaken(f"cannot listen on {', '.join(faults)}")


def _fault_of(host: str, port: int) -> str | None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family, backlog=1).close()
    except socket.gaierror as error:  # its numbers are not the system's
        return error.strerror or str(error)
    except OSError as error:  # create_server has its own words beside the system's
        return os.strerror(error.errno) if error.errno else str(error)
    return None
