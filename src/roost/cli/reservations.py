"""Reservations in the languages of DHCP servers. Pure.

Callers: `roost network reservations`. Input is `model.network.Reservation` as JSON. Sources: dnsmasq(8) `dhcp-host`;
ISC dhcpd.conf(5) `host`; Kea Administrator Reference Manual, host reservations, 2.2.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

from roost.cli.output import Json


def dnsmasq(reservations: list[Json]) -> str:
    """Lines for its configuration, or without `dhcp-host=` for a `dhcp-hostsfile`."""
    return "\n".join(
        "dhcp-host="
        + ",".join(
            [
                r["mac"],
                *([f"[{r['ipv6']}]"] if r["ipv6"] else []),
                *([r["ipv4"]] if r["ipv4"] else []),
                r["vm"],
            ]
        )
        for r in reservations
    )


def isc(reservations: list[Json]) -> str:
    """Declarations for dhcpd.conf."""
    blocks = []
    for r in reservations:
        lines = [f"host {r['vm']}-{r['nic']} {{", f"  hardware ethernet {r['mac']};"]
        if r["ipv4"]:
            lines.append(f"  fixed-address {r['ipv4']};")
        lines += [f'  option host-name "{r["vm"]}";', "}"]
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def kea(reservations: list[Json]) -> str:
    """The value of `reservations` in a subnet of Dhcp4."""
    entries = [
        {"hw-address": r["mac"], **({"ip-address": r["ipv4"]} if r["ipv4"] else {}), "hostname": r["vm"]}
        for r in reservations
    ]
    return json.dumps({"reservations": entries}, indent=2)


def comma_separated(reservations: list[Json]) -> str:
    """With a heading: vm, nic, mac, ipv4, ipv6, network."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("vm", "nic", "mac", "ipv4", "ipv6", "network")
    writer.writerow(columns)
    writer.writerows([r[column] if r[column] is not None else "" for column in columns] for r in reservations)
    return text.getvalue().rstrip("\n")


FORMS: dict[str, Callable[[list[Json]], str]] = {
    "dnsmasq": dnsmasq,
    "isc": isc,
    "kea": kea,
    "csv": comma_separated,
}
