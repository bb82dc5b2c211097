"""DHCP and DNS of one network: a dnsmasq of its own, which outlives the agent.

Callers: `agent.networks`. Reservations and names come and go in two files that it reads again on SIGHUP: no lease is
dropped, and nothing is started anew. It is started anew only when its configuration is another one, or when it has died.

Source: dnsmasq(8), 2.85: `dhcp-hostsfile` and `addn-hosts` are read again on SIGHUP, and what is gone from them is
forgotten; `dhcp-hostsdir` never forgets.
"""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from roost.common.files import write_atomic
from roost.common.waiting import poll_until
from roost.errors import NetworkError
from roost.host.launcher import Launch, launch, log_tail, trim_log
from roost.host.processes import ProcessHandle, handle_of, is_alive, send_signal, terminate
from roost.model.network import Network, Reservation

LEASE_TIME = "12h"
_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 5.0
_CAPABILITIES = (
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_CHOWN",
)


@dataclass(frozen=True, slots=True)
class Lease:
    """What a client was given."""

    address: str
    mac: str
    """Empty for DHCPv6, whose clients are known by another id."""
    expires: int
    """Seconds since the epoch; 0 is never."""


class Dnsmasq:
    """The server of one network, with its files in `directory`."""

    def __init__(self, network: Network, directory: Path, unit: str, *, systemd: bool) -> None:
        self._network = network
        self._directory = directory
        self._unit = unit
        self._systemd = systemd
        self._config = directory / "dnsmasq.conf"
        self._hosts = directory / "reservations"
        self._names = directory / "names"
        self._log = directory / "dnsmasq.log"
        self._pid = directory / "dnsmasq.pid"
        self._leases = directory / "leases"
        self._running: ProcessHandle | None = None

    async def ensure(
        self, reservations: Iterable[Reservation], elsewhere: Iterable[Reservation] = ()
    ) -> None:
        """Have it serve these reservations, and no others; those elsewhere it only has names for.

        Raises:
            ToolMissing: dnsmasq is not installed.
            NetworkError: it does not start; the message has its words.
        """
        owner = _account()
        known = list(reservations)
        self._make_directory()
        changed = self._keep(self._hosts, hosts_file(known), owner)
        changed |= self._keep(self._names, names_file([*known, *elsewhere]), owner)
        renewed = self._keep(self._config, self.configuration(owner.pw_name), owner)
        running = self.find()
        if running is not None and not renewed:
            if changed:
                send_signal(running, signal.SIGHUP)
            return
        if running is not None:
            await terminate(running, _END_TIMEOUT_S)
        await self._start()

    def find(self) -> ProcessHandle | None:
        """Its process, remembered, or known by the configuration on its command line."""
        if self._running is None or not is_alive(self._running):
            self._running = find_server(self._directory)
        return self._running

    def configuration(self, user: str) -> str:
        return configuration(
            self._network,
            user=user,
            hosts=self._hosts,
            names=self._names,
            leases=self._leases,
            pid=self._pid,
        )

    def leases(self) -> list[Lease]:
        """What clients hold, as it noted it last."""
        try:
            return parse_leases(self._leases.read_text(errors="replace"))
        except FileNotFoundError:
            return []

    def trim(self) -> None:
        """Keep its log short."""
        trim_log(self._log)

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o711, exist_ok=True)
        self._directory.chmod(0o711)

    def _keep(self, path: Path, text: str, owner: pwd.struct_passwd) -> bool:
        """Write a file that holds something else; whether it did."""
        try:
            if path.read_text() == text:
                return False
        except FileNotFoundError:
            pass
        write_atomic(path, text, mode=0o600, durable=False)
        os.chown(path, owner.pw_uid, -1)
        return True

    async def _start(self) -> None:
        self._pid.unlink(missing_ok=True)
        begin = self._log.stat().st_size if self._log.exists() else 0
        handle = await launch(
            Launch(
                name=self._unit,
                argv=("dnsmasq", "--keep-in-foreground", f"--conf-file={self._config}"),
                log=self._log,
                writable=(self._directory,),
                capabilities=_CAPABILITIES,
            ),
            systemd=self._systemd,
        )

        async def settled() -> bool:  # the pid file is the last thing that it writes before it serves
            return self._pid.exists() or not is_alive(handle)

        await poll_until(settled, timeout_s=_START_TIMEOUT_S, interval_s=0.002)
        if not is_alive(handle) or not self._pid.exists():
            await terminate(handle, _END_TIMEOUT_S)
            words = log_tail(self._log, 1, since=begin) or "it said nothing"
            raise NetworkError(
                f"dnsmasq of network {self._network.name} did not start: {words}", hint=f"see {self._log}"
            )


def find_server(directory: Path) -> ProcessHandle | None:
    """The server whose files are in this directory, None when there is none."""
    wanted = f"--conf-file={directory / 'dnsmasq.conf'}".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if wanted in (process / "cmdline").read_bytes().split(b"\0"):
                return handle_of(int(process.name))
        except OSError:
            continue
    return None


async def end_server(directory: Path) -> None:
    """End it; its files stay. Idempotent."""
    if (running := find_server(directory)) is not None:
        await terminate(running, _END_TIMEOUT_S)


def configuration(network: Network, *, user: str, hosts: Path, names: Path, leases: Path, pid: Path) -> str:
    """Its configuration file. Pure.

    It hears only its own bridge, gives addresses to those alone that have a reservation, and answers for its domain by
    itself. Guests are told by router advertisements to ask for their IPv6 addresses (M flag) and to make none up.
    """
    isolated = network.mode == "isolated"
    lines = [
        "# Written by Roost. Reservations are in the file of that name, names in the other one.",
        f"interface={network.bridge}",
        "bind-interfaces",
        "except-interface=lo",
        f"user={user}",
        f"pid-file={pid}",
        "log-facility=-",
        "no-hosts",
        "no-dhcp-interface=lo",
        f"addn-hosts={names}",
        f"domain={network.domain}",
        f"local=/{network.domain}/",
        "domain-needed",
        "bogus-priv",
        *(["no-resolv"] if isolated else []),
        "dhcp-authoritative",
        f"dhcp-leasefile={leases}",
        f"dhcp-hostsfile={hosts}",
        f"dhcp-lease-max={network.subnet4.num_addresses * 2}",
        f"dhcp-range={network.subnet4.network_address},static,{network.subnet4.netmask},{LEASE_TIME}",
        f"dhcp-range={network.subnet6.network_address},static,64,{LEASE_TIME}",
        "dhcp-ignore=tag:!known",
        *(["dhcp-option=option:router"] if isolated else []),
        *([f"dhcp-option=option:mtu,{network.mtu}"] if network.mtu != 1500 else []),
        "enable-ra",
        f"ra-param={network.bridge},mtu:{network.mtu},0,{0 if isolated else 1800}",
    ]
    return "\n".join(lines) + "\n"


def hosts_file(reservations: Iterable[Reservation]) -> str:
    """`dhcp-hostsfile`: one reservation a line. Pure."""
    return "".join(f"{r.mac},{r.ipv4},[{r.ipv6}],{r.vm}\n" for r in reservations)


def names_file(reservations: Iterable[Reservation]) -> str:
    """`addn-hosts`: both addresses of each NIC under its VM's name. Pure."""
    return "".join(f"{r.ipv4} {r.name}\n{r.ipv6} {r.name}\n" for r in reservations)


def parse_leases(text: str) -> list[Lease]:
    """The leases in dnsmasq's database. Pure.

    Source: dnsmasq src/lease.c, 2.90: `EXPIRES MAC ADDRESS NAME CLIENT-ID`, and after the line that begins with `duid` the
    same for DHCPv6 with a number in the place of the MAC.
    """
    leases = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[0].isdigit():
            mac = fields[1] if ":" in fields[1] else ""
            leases.append(Lease(fields[2], mac, int(fields[0])))
    return leases


def _account() -> pwd.struct_passwd:
    """The user that dnsmasq becomes."""
    for name in ("dnsmasq", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NetworkError(
        "this host has neither a user dnsmasq nor a user nobody", hint="useradd --system dnsmasq"
    )
