"""The command line: `launcher.py` and the `vaultdb` script. Each command is one function; what it does lives in
vaultdb.cluster.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
from rich.console import Console

from vaultdb import __version__, config, demo, logs
from vaultdb.client.admin import ClusterAdmin, Document, address_of
from vaultdb.cluster import control, daemon, failures, joining, logfiles, preflight, processes, record, tables, view
from vaultdb.cluster.members import Parts
from vaultdb.cluster.runner import START_DEADLINE_MS, ClusterRunner
from vaultdb.config import Config, NodeConfig
from vaultdb.errors import ConfigInvalid, Fatal, Unavailable, VaultError
from vaultdb.supervisor import supervisor

EXIT_USAGE = 2
"""Also click's, for options and arguments that it refuses."""
ADMIN_SPARE_MS = 2_000
"""Beyond the time in which a node answers by itself."""
EXIT_INTERRUPTED = 128 + signal.SIGINT

Command = TypeVar("Command", bound=Callable[..., Any])


def leave_at_once(_number: int, _frame: FrameType | None) -> None:
    """Where Ctrl-C finds nothing to clean up."""
    os._exit(EXIT_INTERRUPTED)


@contextlib.contextmanager
def interrupts_as(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` have Ctrl-C for a while, unless it is ignored, as under nohup or in the background of a script."""
    previous = signal.getsignal(signal.SIGINT)
    if previous == signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def warm_parts() -> Parts:
    """Import everything that a node and the monitor need, and keep it out of the garbage collector's sight.

    Done once before the first fork: the processes then share this memory, and a restart imports nothing.
    """
    with interrupts_as(leave_at_once):  # a traceback from the middle of an import helps nobody
        from monitor.server import run as monitor
        from vaultdb.supervisor.mains import MAINS

    gc.collect()
    gc.freeze()
    return Parts(MAINS, monitor)


@dataclass
class Setting:
    """What main passes to the commands: where the configuration is by default, and what nodes are made of."""

    default_config: Path = Path("config/local.toml")
    parts: Callable[[], Parts] = field(default=warm_parts)


def cluster_options(command: Command) -> Command:
    """--config, --data and --set, by which every command finds its cluster."""
    options = [
        click.option("--config", "config_path", metavar="FILE", help="Configuration; default config/local.toml."),
        click.option("--data", "data_dir", metavar="DIR", help="Data directory, instead of the configuration's."),
        click.option("--set", "overrides", metavar="SECTION.FIELD=VALUE", multiple=True, help="Override; repeatable."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def load_config(
    config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], nodes_max: int | None = None
) -> tuple[Config, Path]:
    """The configuration with the options applied, and the file it came from."""
    path = Path(config_path) if config_path else click.get_current_context().obj.default_config
    if data_dir is not None:
        overrides = (*overrides, f"data_dir={json.dumps(str(Path(data_dir).resolve()))}")
    return config.load(path, overrides=overrides, nodes_max=nodes_max), path.resolve()


def find_cluster(config_path: str | None, data_dir: str | None, overrides: tuple[str, ...]) -> record.Cluster:
    return record.find(load_config(config_path, data_dir, overrides)[0])


def find_node(configuration: Config, wanted: str) -> NodeConfig:
    """By name or by id. Raises Unavailable."""
    for address in configuration.nodes:
        if wanted in (address.name, str(address.id)):
            return configuration.node(address.id)
    known = ", ".join(address.name for address in configuration.nodes)
    raise Unavailable(f"there is no node {wanted!r}; the cluster has {known}")


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Errors become one sentence on standard error and an exit status: 2 for the configuration, 1 for the rest; Ctrl-C
    becomes 130 and no sentence.
    """
    try:
        with interrupts_as(signal.default_int_handler):
            yield
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except ConfigInvalid as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except VaultError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


class SentenceGroup(click.Group):
    """A click group whose commands end with one sentence instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        with one_sentence():
            return super().invoke(ctx)


@click.group(cls=SentenceGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="VaultDB")
@click.pass_context
def cli(context: click.Context) -> None:
    """VaultDB: a replicated, strongly consistent key-value store. Without a command: start."""
    if context.invoked_subcommand is None:
        context.invoke(start)


@cli.command()
@cluster_options
@click.option("--nodes", "nodes_max", type=int, metavar="N", help="Only the first N nodes of the configuration.")
@click.option("--detach", is_flag=True, help="Return once the cluster serves; it goes on in the background.")
@click.pass_obj
def start(
    setting: Setting, config_path: str | None, data_dir: str | None, overrides: tuple[str, ...],
    nodes_max: int | None, detach: bool,
) -> None:  # fmt: skip
    """Start the cluster and the monitor; Ctrl-C stops them."""
    configuration, path = load_config(config_path, data_dir, overrides, nodes_max)
    parts = setting.parts()
    if not detach:
        runner = ClusterRunner(configuration, path, parts, say_if_possible)
        sys.exit(runner.run(lambda serves: announce(configuration, serves, "Ctrl-C stops the cluster.")))

    serves = start_detached(configuration, path, parts)
    stop_hint = f"The cluster runs in the background; stop it with: {stop_command(config_path, data_dir)}"
    announce(configuration, serves, stop_hint)
    sys.exit(0 if serves else 1)


def start_detached(configuration: Config, path: Path, parts: Parts) -> bool:
    """Start a cluster in a daemon; whether it serves. Raises VaultError when it could not be started."""
    preflight.check(configuration)  # before there is a log file

    def background(report: daemon.Report) -> int:
        say = logs.logger("launcher").info
        return ClusterRunner(configuration, path, parts, say).run(report.serves, report.close_in_child)

    return daemon.run_detached(background, logfiles.paths(configuration)["launcher"], configuration.logging)


def announce(configuration: Config, serves: bool, hint: str) -> None:
    with contextlib.suppress(OSError):  # as in say_if_possible
        Console().print(tables.endpoints(configuration))
    if not serves:
        say_if_possible(
            f"No leader after {START_DEADLINE_MS // 1000} s; the nodes go on trying, see `status` and `logs`."
        )
    say_if_possible(hint)


def say_if_possible(sentence: str) -> None:
    """A cluster does not end because its launcher's output goes to a full disk or to a reader that is gone."""
    with contextlib.suppress(OSError):
        click.echo(sentence)


def stop_command(config_path: str | None, data_dir: str | None) -> str:
    options = [f" --config {config_path}" if config_path else "", f" --data {data_dir}" if data_dir else ""]
    return f"{Path(sys.argv[0]).name} stop{''.join(options)}"


@cli.command()
@cluster_options
def stop(config_path: str | None, data_dir: str | None, overrides: tuple[str, ...]) -> None:
    """Stop the running cluster and wait until everything is gone."""
    cluster = find_cluster(config_path, data_dir, overrides)
    if not processes.of_cluster(cluster):
        click.echo("Nothing runs here.")
        return
    stop_cluster(cluster)
    click.echo("The cluster is stopped.")


def stop_cluster(cluster: record.Cluster) -> None:
    """Return when nothing of it runs any more. Raises Unavailable when something would not stop."""
    living = processes.of_cluster(cluster)
    try:
        control.ask(cluster.config, "stop", timeout_ms=failures.STOP_GRACE_MS)
    except Unavailable:  # no launcher, or one that hangs: its nodes take the order themselves
        for identity in living:
            identity.signal(signal.SIGTERM)
    deadline_ms = cluster.config.supervisor.stop_deadline_ms + failures.STOP_GRACE_MS
    left = processes.wait_until_gone(living, deadline_ms)
    if left:
        raise Unavailable(f"still running after {deadline_ms // 1000} s: pid {', '.join(str(one.pid) for one in left)}")


@cli.command()
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def status(config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show nodes and processes; exit status 0 only when a leader and a quorum serve."""
    cluster = find_cluster(config_path, data_dir, overrides)
    runs_here = bool(processes.of_cluster(cluster))
    seen = view.look_at(cluster.config) if runs_here else view.look_at_files_only(cluster.config)
    leader = seen.leader_name
    if as_json:
        nodes = [node.record() for node in seen.nodes]
        launcher = cluster.launcher.record() if cluster.launcher else None
        fields = {"serves": seen.serves, "leader": leader, "launcher": launcher, "nodes": nodes}
        click.echo(json.dumps(fields, indent=2))
    elif not runs_here:
        for sentence in tables.troubles(seen):
            click.echo(sentence)
        click.echo(f"No launcher and no node on {cluster.config.data_path} runs on this machine.")
    else:
        console = Console()
        console.print(tables.nodes(seen))
        if any(node.processes for node in seen.nodes):
            console.print(tables.processes(seen))
            click.echo(tables.total_memory(seen))
        if cluster.launcher:
            click.echo(f"launcher: pid {cluster.launcher.pid}")
        for member in seen.others:
            click.echo(f"joined: {member['name']} ({member['role']}); `members` tells more")
        for sentence in tables.troubles(seen):
            click.echo(sentence)
        click.echo(f"A leader ({leader}) and a quorum serve." if seen.serves else "The cluster does not serve.")
    sys.exit(0 if seen.serves else 1)


@cli.command("logs")
@cluster_options
@click.argument("name", metavar="[NODE|monitor|launcher]", required=False)
@click.option("-f", "follow", is_flag=True, help="Go on with what is appended.")
@click.option("-n", "lines", type=click.IntRange(0, 1_000_000), default=20, show_default=True, metavar="LINES")
def show_logs(
    config_path: str | None,
    data_dir: str | None,
    overrides: tuple[str, ...],
    name: str | None,
    follow: bool,
    lines: int,
) -> None:
    """Show the last log lines of one node or of all."""
    configuration = find_cluster(config_path, data_dir, overrides).config
    known = logfiles.paths(configuration)
    if name is not None:
        name = name if name in known else find_node(configuration, name).name
        known = {name: known[name]}
    width = max(len(one) for one in known) if name is None else 0
    followers = {one: logfiles.Follower(path) for one, path in known.items()}
    for one, path in known.items():
        for line in logfiles.tail(path, lines, followers[one].begins_at):
            click.echo(f"{one:{width}} | {line}" if width else line)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            for one, line in logfiles.follow(followers):
                click.echo(f"{one:{width}} | {line}" if width else line)


@cli.command()
@cluster_options
@click.argument("name", metavar="NODE")
@click.argument("process", required=False, type=click.Choice(["supervisor", *supervisor.START_ORDER]))
def kill(
    config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], name: str, process: str | None
) -> None:
    """SIGKILL a node (its supervisor and three processes), or one of its processes, to try a failure."""
    node = find_node(find_cluster(config_path, data_dir, overrides).config, name)
    killed = failures.kill(node, process)
    what = f"{process} of {node.name}" if process else node.name
    click.echo(f"Killed {what} (pid {', '.join(str(one.pid) for one in killed)}).")
    if process in (None, "supervisor"):
        click.echo(f"It stays down until: {Path(sys.argv[0]).name} restart {node.name}")


@cli.command()
@cluster_options
@click.argument("name", metavar="NODE")
def restart(config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], name: str) -> None:
    """Start a killed node again; a running one is stopped cleanly first."""
    configuration = find_cluster(config_path, data_dir, overrides).config
    node = find_node(configuration, name)
    click.echo(f"{node.name} serves as {failures.restart(configuration, node)}.")


def admin_of(configuration: Config, addresses: list[tuple[str, int]] | None = None) -> ClusterAdmin:
    """For the nodes of the configuration, or those at `addresses`."""
    known = [(address.host, address.http_port) for address in configuration.nodes]
    timeout_ms = configuration.api.request_timeout_ms + ADMIN_SPARE_MS
    return ClusterAdmin(known if addresses is None else addresses, timeout_s=timeout_ms / 1000)


def find_member(document: Document, wanted: str) -> dict[str, Any]:
    """By name or by id: members that joined are in no configuration. Raises Unavailable."""
    for row in document["members"]:
        if wanted in (row["name"], str(row["id"])):
            return dict(row)
    known = ", ".join(str(row["name"] or row["id"]) for row in document["members"])
    raise Unavailable(f"there is no member {wanted!r}; the cluster has {known}")


@cli.command()
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option("--stale", is_flag=True, help="As the first node that answers knows them; needs no leader.")
def members(
    config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], as_json: bool, stale: bool
) -> None:
    """Show who belongs to the cluster, as its leader knows it: also nodes that joined and are in no configuration."""
    admin = admin_of(find_cluster(config_path, data_dir, overrides).config)
    document = admin.members(stale=stale)
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    Console().print(tables.members(document))
    state = "joint, on its way to the next one" if document["joint"] else "committed"
    state = state if document["committed"] else "not committed yet"
    click.echo(f"term {document['term']}; this membership (log index {document['index']}) is {state}")
    if not document["can_add"]:
        click.echo("No node can be added: the log does not reach back to its beginning any more.")


@cli.command()
@cluster_options
@click.argument("name", metavar="NODE")
def promote(config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], name: str) -> None:
    """Make a learner that has caught up a voter."""
    admin = admin_of(find_cluster(config_path, data_dir, overrides).config)
    member = find_member(admin.members(), name)
    admin.change({"change": "promote", "id": member["id"]})
    click.echo(f"{member['name']} is a voter now.")


@cli.command()
@cluster_options
@click.argument("name", metavar="NODE")
@click.option("--force", is_flag=True, help="Also if no node could be added in its place.")
def remove(
    config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], name: str, force: bool
) -> None:  # fmt: skip
    """Take a node out of the cluster; its process is not stopped."""
    admin = admin_of(find_cluster(config_path, data_dir, overrides).config)
    document = admin.members()
    member = find_member(document, name)
    if not (document["can_add"] or force):
        raise Unavailable(
            f"{member['name']} could not be added again, nor any other node: the log does not reach back to its"
            " beginning any more, and this release cannot send snapshots; --force removes it all the same"
        )
    admin.change({"change": "remove", "id": member["id"]})
    click.echo(f"{member['name']} is no member any more.")


@cli.command()
@cluster_options
@click.argument("name", metavar="[NODE]", required=False)
def transfer(config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], name: str | None) -> None:
    """Hand the leadership over to NODE, or to the voter that is best placed."""
    admin = admin_of(find_cluster(config_path, data_dir, overrides).config)
    known = admin.members()
    done = admin.transfer(None if name is None else find_member(known, name)["id"])
    click.echo(f"{find_member(known, str(done['leader']))['name']} leads in term {done['term']}.")


@cli.command("demo")
@cluster_options
@click.option("--days", type=click.IntRange(100), metavar="N", help="Only the first N trading days.")
@click.pass_obj
def run_demo(
    setting: Setting, config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], days: int | None
) -> None:
    """Load 33 years of prices, kill the leader meanwhile, verify every price on every node.

    Uses the running cluster; without one, a cluster on a temporary directory, which is stopped and deleted afterwards.
    """
    console = Console()
    with contextlib.ExitStack() as stack:
        if processes.of_cluster(find_cluster(config_path, data_dir, overrides)):
            configuration = find_cluster(config_path, data_dir, overrides).config
        else:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="vaultdb-demo-"))
            configuration, path = load_config(config_path, temporary, overrides)
            console.print(f"No cluster runs; one is started on {temporary}.")
            start_detached(configuration, path, setting.parts())
            stack.callback(stop_cluster, record.find(configuration))
        is_good = demo.run(
            configuration,
            console,
            kill=lambda name: failures.kill(find_node(configuration, name)),
            restart=lambda name: failures.restart(configuration, find_node(configuration, name)),
            days=days,
        )
    sys.exit(0 if is_good else 1)


@cli.command()
@cluster_options
@click.option("--id", "node_id", type=int, metavar="ID", help="Which node of the configuration.")
@click.option("--join", "seed", metavar="URL", help="Be a new node of the cluster to which http://host:port belongs.")
@click.option("--name", metavar="NAME", help="With --join: of the new node.")
@click.option("--host", metavar="HOST", help=f"With --join: where it listens; default {joining.DEFAULT_HOST}.")
@click.option("--http-port", type=int, metavar="PORT", help="With --join; default: one above all other nodes.")
@click.option("--peer-port", type=int, metavar="PORT", help="The same.")
@click.option("--native-port", type=int, metavar="PORT", help="The same.")
@click.pass_obj
def node(
    setting: Setting, config_path: str | None, data_dir: str | None, overrides: tuple[str, ...], node_id: int | None,
    seed: str | None, name: str | None, host: str | None, http_port: int | None, peer_port: int | None,
    native_port: int | None,
) -> None:  # fmt: skip
    """Run one node in the foreground, for production; logs go to standard error, SIGTERM stops it.

    With --join it is added to a running cluster as a learner, under a data directory of its name; the same command
    starts it again.
    """
    chosen = {"host": host, "http_port": http_port, "peer_port": peer_port, "native_port": native_port}
    wanted = {field: value for field, value in chosen.items() if value is not None}
    if seed is None and node_id is None:
        raise click.UsageError("Missing option '--id', of the configuration, or '--join', for a new node.")
    if (seed is None) != (name is None) or (seed is None and wanted) or (seed is not None and node_id is not None):
        raise click.UsageError("--join and --name go together, without --id; --host and ports belong to them.")
    configuration, _ = load_config(config_path, data_dir, overrides)
    try:
        if seed is not None and name is not None:
            mine = joining.join(configuration, name, wanted, admin_of(configuration, [address_of(seed)]))
            say_if_possible(f"{mine.name} is member {mine.id} of the cluster and will serve at {mine.me.http_url}.")
        else:
            assert node_id is not None
            mine = configuration.node(node_id)
        parts = setting.parts()
        logs.configure(mine.config.logging, node=mine.name, process="supervisor")
        code = supervisor.run(mine, parts.mains)
    except Fatal as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    sys.exit(int(code))


def main(default_config: Path | None = None) -> None:
    """Entry of the `vaultdb` script and of launcher.py, which passes where its own configuration lies."""
    setting = Setting(default_config) if default_config else Setting()
    with interrupts_as(leave_at_once), contextlib.suppress(BrokenPipeError):
        cli(obj=setting)


if __name__ == "__main__":
    main()
