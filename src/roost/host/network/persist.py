"""Which program makes this host's network at boot, and the files that have it make a bridge, too.

Callers: `prepare`. Pure but for reading files below `root`: it returns what is to be written, and writes nothing. Source:
systemd.network(5) and systemd.netdev(5), 252; netplan(5), 0.106; interfaces(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from roost.errors import NetworkError
from roost.host.network.setup import FOREVER, Setup

Manager = Literal["networkd", "netplan", "ifupdown", "NetworkManager", "none"]

MARKER = "# Written by `roost host prepare`; `roost host prepare --undo --bridge {bridge}` takes it back."
_NETWORKD = Path("etc/systemd/network")
_NETPLAN = Path("etc/netplan")
_IP_KEYS = ("Match", "Link", "Bridge", "NetDev")
_OF_THE_CARD = frozenset(
    {"match", "set-name", "wakeonlan", "mtu", "macaddress", "optional", "renderer", "emit-lldp"}
    | {f"{kind}-offload" for kind in ("receive-checksum", "transmit-checksum", "tcp-segmentation")}
)
"""Keys of netplan that stay with a network card when its addresses move to a bridge."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The bridge that is to be there after each boot."""

    bridge: str
    uplink: str | None
    address: str | None
    """MAC address of the bridge: the uplink's, so that DHCP leases stay."""
    mtu: int | None = None
    setup: Setup = field(default_factory=Setup)
    """What the uplink has now: written down where no file says it."""


@dataclass(frozen=True, slots=True)
class Files:
    """What to write so that it stays, and how to have it read."""

    manager: Manager
    write: dict[Path, str] = field(default_factory=dict)
    reload: tuple[str, ...] = ()


def manager_of(root: Path, uplink: str | None, index: int | None) -> Manager:
    """Who makes the network of `uplink` at boot; without one, who would make a bridge."""
    if uplink is not None and _ifupdown_stanza(root, uplink):
        return "ifupdown"
    if uplink is not None and "managed=true" in _read(root / f"run/NetworkManager/devices/{index}"):
        return "NetworkManager"
    if any((root / _NETPLAN).glob("*.yaml")):
        return "netplan"
    if (root / "run/systemd/netif/state").exists():  # the directory is there without networkd, too
        return "networkd"
    return "none"


def files_for(root: Path, wanted: Wanted, manager: Manager, index: int | None) -> Files:
    """What is to be written below `root`.

    Raises:
        NetworkError: files of this manager are the administrator's to change; the message has what to change in them.
    """
    match manager:
        case "networkd":
            return Files(manager, _networkd(root, wanted, index), ("networkctl", "reload"))
        case "netplan":
            return Files(manager, _netplan(root, wanted), ("netplan", "apply"))
        case "ifupdown":
            raise NetworkError(
                f"{wanted.uplink} is set up in /etc/network/interfaces, which Roost does not edit",
                hint=_ifupdown_snippet(root, wanted),
            )
        case "NetworkManager":
            raise NetworkError(
                f"{wanted.uplink} belongs to NetworkManager, which has to make the bridge itself",
                hint=_nmcli(wanted),
            )
        case "none":
            return Files(manager)


def ours(root: Path, bridge: str) -> list[Path]:
    """Files that an earlier `roost host prepare` for this bridge wrote, and that still say so."""
    marker = MARKER.format(bridge=bridge)
    found = [*(root / _NETWORKD).glob("*-roost-*"), *(root / _NETPLAN).glob("*.yaml")]
    return sorted(path for path in found if _read(path).startswith(marker))


def before_of(path: Path) -> Path:
    """Where the administrator's own version of a file that Roost changed is kept; netplan reads only `*.yaml`."""
    return path.with_name(f"{path.name}.before-roost")


# --- systemd-networkd ---------------------------------------------------------------------------------------------------


def _networkd(root: Path, wanted: Wanted, index: int | None) -> dict[Path, str]:
    marker, bridge, uplink = MARKER.format(bridge=wanted.bridge), wanted.bridge, wanted.uplink
    netdev = [marker, "", "[NetDev]", f"Name={bridge}", "Kind=bridge"]
    netdev += [f"MACAddress={wanted.address}"] if wanted.address else []
    netdev += [f"MTUBytes={wanted.mtu}"] if wanted.mtu else []
    netdev += ["", "[Bridge]", "STP=no", "ForwardDelaySec=0"]
    # 05: before whatever else matches the uplink, for the first file that matches an interface is the one that counts.
    directory = root / _NETWORKD
    files = {directory / f"05-roost-{bridge}.netdev": netdev}
    if uplink is None:
        files[directory / f"05-roost-{bridge}.network"] = [
            *(marker, "", "[Match]", f"Name={bridge}", "", "[Network]"),
            *("LinkLocalAddressing=no", "ConfigureWithoutCarrier=yes"),
        ]
    else:
        files[directory / f"05-roost-{bridge}-uplink.network"] = [
            *(marker, "", "[Match]", f"Name={uplink}", "", "[Network]", f"Bridge={bridge}"),
            *("LinkLocalAddressing=no", "IPv6AcceptRA=no"),
        ]
        source = _network_file(root, index)
        body = _sections(source) if source else _static(wanted.setup)
        origin = [f"# From {source.relative_to(root)}, which was for {uplink}."] if source else []
        files[directory / f"05-roost-{bridge}.network"] = [
            *(marker, *origin, "", "[Match]", f"Name={bridge}", "", *body)
        ]
    return {path: "\n".join(lines).rstrip() + "\n" for path, lines in files.items()}


def _network_file(root: Path, index: int | None) -> Path | None:
    """The file that networkd has set this interface up from. Source: systemd src/network/networkd-state-file.c, 252."""
    state = _read(root / f"run/systemd/netif/links/{index}")
    named = re.search(r"^NETWORK_FILE=/?(.+)$", state, re.MULTILINE)
    path = root / named[1] if named else None
    return path if path and path.exists() and not path.name.startswith("05-roost-") else None


def _sections(source: Path) -> list[str]:
    """The lines of a .network file and its drop-ins that say what to have on the interface, not which one and how."""
    lines: list[str] = []
    drop_ins = sorted(source.with_name(f"{source.name}.d").glob("*.conf"))
    for path in (source, *drop_ins):
        keep = False
        for line in path.read_text().splitlines():
            if section := re.fullmatch(r"\s*\[(\w+)\]\s*", line):
                keep = section[1] not in _IP_KEYS
            if keep:
                lines.append(line)
    return lines


def _static(setup: Setup) -> list[str]:
    """What is on the interface now, for one that nobody sets up: its lasting addresses and routes."""
    lines = ["[Network]", "IPv6AcceptRA=no"] if not _by_router(setup) else ["[Network]", "IPv6AcceptRA=yes"]
    for address in setup.addresses:
        if address.valid_s == FOREVER:
            lines += ["", "[Address]", f"Address={address.local or address.address}/{address.prefixlen}"]
            lines += [f"RouteMetric={address.priority}"] if address.priority else []
    for route in setup.routes:
        if route.expires_s is None and route.proto != 9:  # RTPROT_RA: it comes from the router again
            lines += ["", "[Route]"]
            lines += [f"Destination={route.dst}"] if route.dst != "default" else []
            lines += [f"Gateway={route.gateway}"] if route.gateway else ["Scope=link"]
            lines += [f"PreferredSource={route.prefsrc}"] if route.prefsrc else []
            lines += [f"Metric={route.priority}"] if route.priority else []
            lines += [f"Table={route.table}"] if route.table != 254 else []
            lines += ["GatewayOnLink=yes"] if route.onlink else []
            lines += [f"MTUBytes={route.metrics['mtu']}"] if "mtu" in route.metrics else []
    return lines


def _by_router(setup: Setup) -> bool:
    return any(route.proto == 9 for route in setup.routes)


# --- netplan ------------------------------------------------------------------------------------------------------------


def _netplan(root: Path, wanted: Wanted) -> dict[Path, str]:
    """The administrator's file with the addresses moved from the card to the bridge; or one of our own, without an uplink."""
    marker, bridge = MARKER.format(bridge=wanted.bridge), wanted.bridge
    stanza: dict[str, Any] = {"interfaces": [], "parameters": {"stp": False, "forward-delay": 0}}
    stanza |= {"macaddress": wanted.address} if wanted.address else {}
    stanza |= {"mtu": wanted.mtu} if wanted.mtu else {}
    if wanted.uplink is None:
        new = {"network": {"version": 2, "bridges": {bridge: stanza}}}
        return {root / _NETPLAN / f"90-roost-{bridge}.yaml": f"{marker}\n{_yaml(new)}"}
    named = [
        (path, kind, document)
        for path in sorted((root / _NETPLAN).glob("*.yaml"))
        for document in [_load(path)]
        for kind in ("ethernets", "bonds", "vlans")
        if wanted.uplink in document["network"].get(kind, {})
    ]
    if len(named) != 1:
        where = " and ".join(path.name for path, _, _ in named) or "no file below /etc/netplan"
        raise NetworkError(
            f"{wanted.uplink} is set up by {where}; Roost changes one file that names it",
            hint="have one file name it, and put what it has under its own name instead of a pattern",
        )
    ((path, kind, document),) = named
    card = document["network"][kind][wanted.uplink] or {}
    moved = {key: value for key, value in card.items() if key not in _OF_THE_CARD}
    if kind != "ethernets":
        own = {"interfaces", "parameters", "id", "link"}
        moved = {key: value for key, value in moved.items() if key not in own}
    document["network"][kind][wanted.uplink] = {k: v for k, v in card.items() if k not in moved} | {
        "dhcp4": False,
        "dhcp6": False,
    }
    document["network"].setdefault("bridges", {})[bridge] = {
        **stanza,
        "interfaces": [wanted.uplink],
        **moved,
    }
    return {before_of(path): path.read_text(), path: f"{marker}\n{_yaml(document)}"}


def _load(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise NetworkError(f"{path} cannot be read", hint="netplan get says what is wrong with it") from error
    if not isinstance(document, dict) or not isinstance(document.setdefault("network", {}), dict):
        raise NetworkError(
            f"{path} is not a file of netplan's", hint="netplan get says what is wrong with it"
        )
    return document


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False)


# --- Those that Roost does not write for --------------------------------------------------------------------------------


def _ifupdown_stanza(root: Path, name: str) -> list[str]:
    """The lines of `iface NAME …` stanzas."""
    found: list[str] = []
    for path in (root / "etc/network/interfaces", *sorted((root / "etc/network/interfaces.d").glob("*"))):
        inside = False
        for line in _read(path).splitlines():
            words = line.split()
            if (words and words[0] in ("iface", "auto", "mapping", "source", "source-directory")) or (
                words and words[0].startswith("allow-")
            ):
                inside = words[:2] == ["iface", name]
            if inside:
                found.append(line.rstrip())
    return found


def _ifupdown_snippet(root: Path, wanted: Wanted) -> str:
    stanza = [line for line in _ifupdown_stanza(root, str(wanted.uplink)) if line.strip()]
    moved = [
        re.sub(rf"^(\s*iface\s+){re.escape(str(wanted.uplink))}\b", rf"\g<1>{wanted.bridge}", line)
        for line in stanza
    ]
    lines = [
        f"install bridge-utils, replace the lines for {wanted.uplink} by these, and reboot:",
        f"iface {wanted.uplink} inet manual",
        f"auto {wanted.bridge}",
        *moved,
        *(f"    {word}" for word in (f"bridge_ports {wanted.uplink}", "bridge_stp off", "bridge_fd 0")),
        *([f"    bridge_hw {wanted.address}"] if wanted.address else []),
    ]
    return "\n".join(lines)


def _nmcli(wanted: Wanted) -> str:
    bridge, uplink = wanted.bridge, wanted.uplink
    mac = f" bridge.mac-address {wanted.address}" if wanted.address else ""
    return "\n".join(
        [
            "run these, with the address of the old connection in the first where it has a fixed one:",
            f"nmcli connection add type bridge ifname {bridge} con-name {bridge} bridge.stp no{mac}",
            f"nmcli connection add type ethernet ifname {uplink} con-name {bridge}-{uplink} master {bridge}",
            f"nmcli connection up {bridge}-{uplink}",
        ]
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
