"""`roost network`."""

from __future__ import annotations

import re
from typing import Any

import click

from roost.cli.app import App
from roost.cli.errors import DONE, FAILED
from roost.cli.groups import Group
from roost.cli.options import (
    complete_bridges,
    complete_networks,
    complete_vms,
    network_argument,
    output_forms,
    output_option,
)
from roost.cli.output import Json, moment, sections, table
from roost.cli.reservations import FORMS
from roost.errors import RoostError

_PORT = re.compile(r"(\d{1,5})(?:/(tcp|udp))?", re.ASCII)
_FORWARD = re.compile(
    r"(?:(?P<host>[0-9.]+):)?(?P<outer>\d{1,5})(?::(?P<inner>\d{1,5}))?(?:/(?P<protocol>tcp|udp))?", re.ASCII
)


def _port(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int | None, str]:
    """Port and protocol in `5432` or `53/udp`."""
    if value is None:
        return None, "tcp"
    match = _PORT.fullmatch(value)
    if match is None:
        raise click.BadParameter("write a port as 5432 or 53/udp", ctx, param)
    return int(match[1]), match[2] or "tcp"


port_option = click.option(
    "--port", metavar="PORT[/udp]", callback=_port, help="Only this port; without it everything."
)
to_argument = click.argument("to", metavar="TO", shell_complete=complete_networks)


@click.group(cls=Group)
def network() -> None:
    """Make networks for VMs, and say who may reach whom."""


@network.command()
@click.argument("name")
@click.option(
    "--mode",
    type=click.Choice(["nat", "routed", "isolated"]),
    help="nat (the default) hides VMs behind the host, routed does not, isolated leads nowhere.",
)
@click.option("--ipv4", metavar="SUBNET", help="Such as 192.168.50.0/24; the next free one when left out.")
@click.option("--ipv6", metavar="SUBNET", help="A /64; the next free one of this host's own when left out.")
@click.option("--gateway", metavar="ADDRESS", help="The host's own address on it; the first when left out.")
@click.option("--range", metavar="FIRST-LAST", help="Where VMs get their addresses from; all when left out.")
@click.option("--bridge", metavar="NAME", help="What its bridge is called; br-NAME when left out.")
@click.option("--domain", help="What the names of its VMs end in; the network's name when left out.")
@click.option("--mtu", type=int, help="The largest packet; 1500, or what fits the underlay, when left out.")
@click.option("--tenant", help="Whose it is.")
@click.option("--net-id", type=int, help="Its number on all its hosts; bridge and subnets follow from it.")
@click.option(
    "--underlay", metavar="ADDRESS", help="This host's address among the hosts that share the network."
)
@click.option(
    "--peer", "peers", metavar="ADDRESS", multiple=True, help="Another host that has it; repeat it."
)
@output_option
@click.pass_obj
def create(app: App, /, name: str, **words: Any) -> None:
    """Make a network: a bridge, its subnets, DHCP, DNS and a firewall.

    With --underlay or --peer it goes on, on other hosts: make it there too, with the same --net-id, and give each host
    a --range of its own.
    """
    made = app.agent.networks.create({"name": name, **words})
    app.show(made, lambda made: f"{made['name']} is there ({made['mode']}, {made['ipv4']}, {made['ipv6']})")


@network.command("list")
@output_option
@click.pass_obj
def list_networks(app: App) -> None:
    """List networks."""
    app.show(app.agent.networks.list(), _network_table)


@network.command()
@network_argument
@output_option
@click.pass_obj
def show(app: App, name: str) -> None:
    """Show a network, what it may reach, and which ports of the host lead into it."""
    app.show(app.agent.networks.show(name), _network_page)


@network.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_networks)
@output_option
@click.pass_obj
def delete(app: App, names: tuple[str, ...]) -> int:
    """Delete networks that no VM uses."""
    worst = DONE
    deleted: list[Json] = []
    for name in dict.fromkeys(names):
        try:
            app.agent.networks.delete(name)
            deleted.append({"name": name, "state": "deleted"})
        except RoostError as error:
            worst = max(worst, app.complain(error))
    app.show(deleted, lambda deleted: "\n".join(f"{one['name']} is deleted" for one in deleted))
    return worst


@network.command()
@network_argument
@to_argument
@port_option
@output_option
@click.pass_obj
def allow(app: App, name: str, to: str, port: tuple[int | None, str]) -> None:
    """Let VMs of network NAME reach those of network TO.

    Without a rule no network reaches another. Answers may come back; the other direction is a rule of its own.
    """
    number, protocol = port
    changed = app.agent.networks.allow(name, to, port=number, protocol=protocol)
    app.show(changed, lambda _: f"{name} reaches {to}{_of_port(number, protocol)}")


@network.command()
@network_argument
@to_argument
@port_option
@output_option
@click.pass_obj
def deny(app: App, name: str, to: str, port: tuple[int | None, str]) -> None:
    """Take back what `allow` let through. Connections that are open stay open."""
    number, protocol = port
    changed = app.agent.networks.deny(name, to, port=number, protocol=protocol)
    app.show(changed, lambda _: f"{name} no longer reaches {to}{_of_port(number, protocol)}")


@network.command()
@network_argument
@click.argument("port", metavar="[ADDRESS:]PORT[:GUESTPORT][/udp]")
@click.argument("vm", required=False, shell_complete=complete_vms)
@click.option("--remove", is_flag=True, help="Take the forward back.")
@output_option
@click.pass_obj
def forward(app: App, name: str, port: str, vm: str | None, remove: bool) -> None:
    """Have a port of the host lead to a VM on network NAME: `roost network forward lan 8080:80 web`."""
    match = _FORWARD.fullmatch(port)
    if match is None:
        raise click.BadParameter("write it as 8080:80, 192.168.1.2:8080:80 or 53/udp", param_hint="PORT")
    outer, protocol = int(match["outer"]), match["protocol"] or "tcp"
    if remove:
        changed = app.agent.networks.unforward(name, protocol, outer, match["host"])
        app.show(changed, lambda _: f"port {outer}/{protocol} of the host no longer leads into {name}")
        return
    if vm is None:
        raise click.UsageError("Name the VM that the port leads to, or --remove")
    guest_port = int(match["inner"] or outer)
    wanted = {
        "host": match["host"],
        "host_port": outer,
        "vm": vm,
        "guest_port": guest_port,
        "protocol": protocol,
    }
    changed = app.agent.networks.forward(
        name, {key: value for key, value in wanted.items() if value is not None}
    )
    app.show(changed, lambda _: f"port {outer}/{protocol} of the host leads to port {guest_port} of {vm}")


@network.command()
@network_argument
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--none", "none", is_flag=True, help="Nobody: the network is this host's alone from now on.")
@output_option
@click.pass_obj
def peers(app: App, name: str, addresses: tuple[str, ...], none: bool) -> None:
    """Say which other hosts have network NAME, by their underlay addresses: these, and no others from now on.

    All hosts can be told the same, for each leaves itself out.
    """
    if bool(addresses) == none:
        raise click.UsageError("Give the addresses of the other hosts, or --none")
    known = app.agent.networks.show(name)["remotes"] if addresses else []
    changed = app.agent.networks.place(
        name, {"peers": list(addresses), "nics": [nic for nic in known if nic["host"] in addresses]}
    )
    app.show(changed, lambda made: f"{name} is shared with {', '.join(made['peers']) or 'nobody'}")


@network.command()
@click.argument(
    "name",
    metavar="NETWORK|BRIDGE",
    shell_complete=lambda ctx, param, text: sorted(
        {*complete_networks(ctx, param, text), *complete_bridges(ctx, param, text)}
    ),
)
@output_forms(*FORMS)
@click.pass_obj
def reservations(app: App, name: str) -> None:
    """List who has which address on a network, or on a bridge whose LAN has a DHCP server of its own.

    The forms dnsmasq, isc, kea and csv are for that server.
    """
    found = app.agent.networks.reservations(name)
    if app.output in FORMS:
        click.echo(FORMS[app.output](found))
    else:
        app.show(found, _reservation_table)


@network.command()
@network_argument
@output_option
@click.pass_obj
def verify(app: App, name: str) -> int:
    """Try each rule of a network with NICs of the agent's own, and say what that proved.

    Exit status 1 when a rule does not hold.
    """
    proofs = app.finish(app.agent.networks.verify(name))
    app.show(proofs, _proof_table)
    return FAILED if any(proof["outcome"] == "broken" for proof in proofs) else DONE


def _of_port(port: int | None, protocol: str) -> str:
    return "" if port is None else f" on port {port}/{protocol}"


def _network_table(networks: list[Json]) -> str:
    rows = [
        (n["name"], n["mode"], n["ipv4"], n["ipv6"], n["bridge"], str(len(n["vms"])), str(n["free"]))
        for n in networks
    ]
    return table(("NAME", "MODE", "IPV4", "IPV6", "BRIDGE", "VMS", "FREE"), rows)


def _network_page(network: Json) -> str:
    return sections(
        [
            (
                network["name"],
                [
                    ("mode", network["mode"]),
                    ("bridge", network["bridge"]),
                    ("ipv4", f"{network['ipv4']}, the host is {network['gateway4']}"),
                    ("ipv6", f"{network['ipv6']}, the host is {network['gateway6']}"),
                    ("range", f"{network['first']}-{network['last']}, {network['free']} free"),
                    ("domain", network["domain"]),
                    ("mtu", network["mtu"]),
                    ("tenant", network["tenant"]),
                    ("net id", network["net_id"]),
                    ("underlay", network["underlay"]),
                    ("peers", ", ".join(network["peers"])),
                    ("known nics", len(network["remotes"]) if network["underlay"] else None),
                    ("dhcp, dns", "served" if network["served"] else "not served: its dnsmasq does not run"),
                    ("made", moment(network["created"])),
                    ("vms", ", ".join(network["vms"])),
                ],
            ),
            (
                "reaches",
                [
                    (a["to"], _of_port(a["port"], a["protocol"]).strip() or "everything")
                    for a in network["allows"]
                ],
            ),
            (
                "forwards",
                [
                    (f"{f['host'] or '*'}:{f['host_port']}/{f['protocol']}", f"{f['vm']}:{f['guest_port']}")
                    for f in network["forwards"]
                ],
            ),
        ]
    )


def _proof_table(proofs: list[Json]) -> str:
    rows = [(p["outcome"], p["rule"], p["expected"], p["detail"]) for p in proofs]
    counts = {word: sum(p["outcome"] == word for p in proofs) for word in ("proved", "broken", "not tried")}
    summary = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{table(('OUTCOME', 'RULE', 'EXPECTED', 'SEEN'), rows)}\n\n{summary}"


def _reservation_table(reservations: list[Json]) -> str:
    rows = [
        (r["vm"], str(r["nic"]), r["mac"], r["ipv4"] or "", r["ipv6"] or "", r["name"]) for r in reservations
    ]
    return table(("VM", "NIC", "MAC", "IPV4", "IPV6", "NAME"), rows)
