"""`roost host prepare`: a bridge for VMs, with an uplink to the LAN whose addresses move to the bridge; and the way back.

Callers: the CLI. It must not need the agent. A host that is reached over the very uplink must never be lost: a guard (see
there) puts everything back unless those who answered on the uplink before answer on the bridge afterwards, or a person says
that all is well. What lasts over a boot is written only then.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from roost.common import steps
from roost.common.files import write_atomic
from roost.common.waiting import poll_until
from roost.errors import ConflictError, HostError, NetworkError, PermissionMissing, RoostError, SpecError
from roost.host.commands import run
from roost.host.facts import has_systemd
from roost.host.launcher import Launch, launch
from roost.host.network.guard import Journal, claim, now, restore, watched, write_journal
from roost.host.network.persist import Files, Wanted, before_of, files_for, manager_of, ours
from roost.host.network.reach import answering, neighbours
from roost.host.network.setup import (
    Setup,
    copy_parameters,
    immovable_routes,
    index_of,
    kind_of,
    link_of,
    put,
    read_setup,
    take,
)

Say = Callable[[str], object]
Ask = Callable[[float], Awaitable[bool]]
"""Has a person say within so many seconds that all is well."""

ALIAS = "roost: made by roost host prepare"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_GUARD_S = 20.0
"""For the guard to come up; it takes a second on an idle host."""
_PROBE_S = 3.0
"""For neighbours to answer that are there: ARP and neighbour discovery ask again every second."""
_CARRIER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the bridge is to be."""

    bridge: str
    uplink: str | None = None
    timeout_s: float = 30.0
    """How long nobody may confirm before everything is put back."""
    run: Path
    """Directory for the guard's journal, made when missing."""
    root: Path = Path("/")
    """Below which the files of the host's network manager lie."""

    @property
    def journal(self) -> Path:
        return self.run / f"prepare-{self.bridge}.json"


@dataclass(frozen=True, slots=True)
class _Found:
    """What is there before anything is done."""

    bridge: Any
    """The link's message, None without one."""
    uplink: Any
    setup: Setup = field(default_factory=Setup)
    """On the uplink."""
    ports: list[str] = field(default_factory=list)
    """Of the bridge."""

    @property
    def is_joined(self) -> bool:
        return (
            bool(self.bridge and self.uplink) and self.uplink.get_attr("IFLA_MASTER") == self.bridge["index"]
        )

    @property
    def uplink_index(self) -> int | None:
        return int(self.uplink["index"]) if self.uplink else None


async def prepare(request: Request, say: Say, *, dry_run: bool = False, ask: Ask | None = None) -> bool:
    """Have the bridge, now and after each boot. Idempotent: False when all was so already.

    Args:
        say: called with one line for each thing that is done, or with `dry_run` would be.
        ask: has a person confirm, instead of the neighbours that answered before.

    Raises:
        SpecError: a name that no interface can have.
        NetworkError: it cannot be done here, or nobody confirmed; then everything is as it was.
        ConflictError: another change of this bridge is under way.
        PermissionMissing: only root may.
    """
    _refuse_names(request)
    found = await asyncio.to_thread(_look, request)
    _refuse(request, found, Path("/sys/class/net"))
    todo = _todo(request, found)
    persisted = bool(ours(request.root, request.bridge))
    files = Files("none") if persisted and not todo else _files(request, found, anything=bool(todo))
    lines = [*todo, *(f"write {path}" for path in files.write)]
    if not lines:
        say(f"{request.bridge} is as it should be; nothing to do")
        return False
    for line in lines if dry_run else ():
        say(f"would {line}")
    if todo and files.manager == "none" and not persisted:
        say("note: no network manager that Roost knows runs here, so the bridge is gone after a reboot")
    if dry_run:
        return True
    _require_root()
    answered = await _before(request, found, ask)
    async with _guarded(request, found, files) as confirm:
        if todo:
            await asyncio.to_thread(_change, request, found)
        for line in todo:
            say(f"done: {line}")
        await confirm(answered, ask)
        if files.write:
            _write(files)
            for path in files.write:
                say(f"wrote {path}")
            if files.reload and request.root == Path("/"):
                await run(files.reload, timeout_s=60)
                await confirm(answered, None)
    return True


async def undo(request: Request, say: Say, *, dry_run: bool = False) -> bool:
    """Give the uplink back what the bridge has now, and remove the bridge and the files that keep it. False: nothing to undo.

    A process of its own does it, to its end, for this one may lose its terminal on the way.

    Raises:
        NetworkError: the bridge is not of `roost host prepare`, or VMs are on it.
        PermissionMissing: only root may.
    """
    _refuse_names(request)
    found = await asyncio.to_thread(_look, request)
    files = ours(request.root, request.bridge)
    if found.bridge is None and not files:
        say(f"there is no bridge {request.bridge}; nothing to undo")
        return False
    if found.bridge is not None and not files and found.bridge.get_attr("IFLA_IFALIAS") != ALIAS:
        raise NetworkError(
            f"{request.bridge} was not made by `roost host prepare`", hint=f"ip link del {request.bridge}"
        )
    taps, others = await asyncio.to_thread(_ports_by_kind, found.ports)
    if taps or len(others) > 1:
        raise NetworkError(
            f"{request.bridge} is in use by {', '.join([*taps, *others[1:]])}",
            hint="stop the VMs on it first (`roost vm list`), and take out ports that are not the uplink",
        )
    uplink = others[0] if others else None
    say_word = "would " if dry_run else ""
    if uplink is not None:
        say(f"{say_word}move the addresses of {request.bridge} back to {uplink}")
    if found.bridge is not None:
        say(f"{say_word}remove {request.bridge}")
    for path in files:
        back = before_of(path).exists()
        say(f"{say_word}{'put back' if back else 'remove'} {path}")
    if dry_run:
        return True
    _require_root()
    setup = await asyncio.to_thread(_setup_of, request.bridge)
    journal = Journal(
        bridge=request.bridge,
        made=True,
        uplink=uplink,
        joined=uplink is not None,
        setup=setup,
        pid=os.getpid(),
        deadline=now(),
        files=_files_before(files),
        reload=_reload_of(request, files),
    )
    await _arm(request, journal)
    await _ended(request)
    return True


# --- What is there ----------------------------------------------------------------------------------------------------


def _refuse_names(request: Request) -> None:
    for name in filter(None, (request.bridge, request.uplink)):
        if not _NAME.fullmatch(name):
            raise SpecError(
                f"{name} cannot be the name of an interface",
                hint="1 to 15 letters, digits, dots, hyphens and underscores, the first a letter or a digit",
            )
    if request.bridge == request.uplink:
        raise SpecError(
            "a bridge cannot be its own uplink", hint="give the bridge a name of its own, such as br0"
        )


def _require_root() -> None:
    if os.geteuid() != 0:
        raise PermissionMissing("only root may change the host's network", hint="sudo roost host prepare …")


def _look(request: Request) -> _Found:
    with IPRoute() as links:
        bridge = link_of(links, request.bridge)
        uplink = link_of(links, request.uplink) if request.uplink else None
        _refuse_masters(links, request, bridge, uplink)
        ports = []
        if bridge is not None:
            ports = [link.get_attr("IFLA_IFNAME") for link in links.get_links(master=bridge["index"])]
        if uplink is None:
            return _Found(bridge, uplink, ports=ports)
        odd = immovable_routes(links, uplink["index"])
        if odd:
            raise NetworkError(
                f"a route through {request.uplink} is of a kind that Roost cannot move: {', '.join(odd)}",
                hint="take it out, and put it back on the bridge afterwards",
            )
        return _Found(bridge, uplink, read_setup(links, uplink["index"]), ports)


def _setup_of(name: str) -> Setup:
    with IPRoute() as links:
        index = index_of(links, name)
        return Setup() if index is None else read_setup(links, index)


def _ports_by_kind(ports: list[str]) -> tuple[list[str], list[str]]:
    with IPRoute() as links:
        taps = [name for name in ports if (link := link_of(links, name)) and kind_of(link) == "tun"]
    return taps, [name for name in ports if name not in taps]


def _refuse_masters(links: IPRoute, request: Request, bridge: Any, uplink: Any) -> None:
    for name, link in ((request.bridge, bridge), (request.uplink, uplink)):
        index = link.get_attr("IFLA_MASTER") if link else None
        if not index:
            continue
        (master,) = links.get_links(index)
        owner, kind = master.get_attr("IFLA_IFNAME"), kind_of(master)
        if kind == "bond":
            raise NetworkError(
                f"{name} is a member of the bond {owner}",
                hint=f"the bond itself can be the uplink: --uplink {owner}",
            )
        if kind == "bridge" and name == request.uplink:
            if owner == request.bridge:
                continue
            raise NetworkError(
                f"{name} is a port of the bridge {owner} already", hint=f"give VMs `bridge: {owner}`"
            )
        raise NetworkError(f"{name} belongs to {owner} ({kind})", hint=f"take it out of {owner} first")


def _refuse(request: Request, found: _Found, sysfs: Path) -> None:
    if request.journal.exists():
        raise ConflictError(
            f"another change of {request.bridge} is under way",
            hint=f"wait until it has ended, at most a minute; if the host crashed meanwhile, remove {request.journal}",
        )
    if found.bridge is not None and kind_of(found.bridge) != "bridge":
        kind = kind_of(found.bridge) or "network card"
        raise NetworkError(
            f"there is an interface {request.bridge} already, and it is no bridge ({kind})",
            hint="give the bridge another name",
        )
    if request.uplink is None:
        return
    if found.uplink is None:
        cards = sorted(path.name for path in sysfs.glob("*") if (path / "device").exists())
        raise NetworkError(
            f"there is no interface {request.uplink} on this host",
            hint=f"it has {', '.join(cards) or 'no card'}",
        )
    place = sysfs / request.uplink
    if (place / "wireless").exists() or (place / "phy80211").exists():
        raise NetworkError(
            f"{request.uplink} is wireless: an access point takes frames from one MAC address only, so it cannot be bridged",
            hint="use a wired card, or the user-mode network",
        )
    kind = kind_of(found.uplink)
    if kind in ("bridge", "tun") or found.uplink["ifi_type"] != 1:  # ARPHRD_ETHER
        raise NetworkError(
            f"{request.uplink} is no Ethernet interface that a bridge can have as its uplink ({kind or 'loopback'})",
            hint="give the card that leads to your LAN",
        )


def _todo(request: Request, found: _Found) -> list[str]:
    """What is to be done to the links, as a person reads it; empty when nothing is."""
    bridge, uplink = request.bridge, request.uplink
    lines = []
    if found.bridge is None:
        lines.append(f"make the bridge {bridge} (no spanning tree, no forwarding delay)")
    elif not found.bridge["flags"] & 1:
        lines.append(f"bring {bridge} up")
    if uplink is not None and not found.is_joined:
        lines.append(
            f"put {uplink} on {bridge}, which takes its MAC address {found.uplink.get_attr('IFLA_ADDRESS')}"
        )
    lines += [
        f"move {address.local or address.address}/{address.prefixlen} from {uplink} to {bridge}"
        for address in found.setup.addresses
    ]
    lines += [
        f"move the route {route.dst}{f' via {route.gateway}' if route.gateway else ''} from {uplink} to {bridge}"
        for route in found.setup.routes
    ]
    return lines


def _files(request: Request, found: _Found, *, anything: bool) -> Files:
    manager = manager_of(request.root, request.uplink, found.uplink_index)
    if not anything and manager in ("ifupdown", "NetworkManager"):
        return Files(manager)  # it made the bridge itself, as it was told to
    mtu = found.uplink.get_attr("IFLA_MTU") if found.uplink else None
    wanted = Wanted(
        request.bridge,
        request.uplink,
        address=found.uplink.get_attr("IFLA_ADDRESS") if found.uplink else None,
        mtu=mtu if mtu != 1500 else None,
        setup=found.setup,
    )
    return files_for(request.root, wanted, manager, found.uplink_index)


# --- The change ---------------------------------------------------------------------------------------------------------


def _change(request: Request, found: _Found) -> None:
    bridge = request.bridge
    try:
        with IPRoute() as links:
            if found.bridge is None:
                # An address is set even without an uplink: else a bridge takes the lowest of its ports', anew each time.
                words = {"address": found.uplink.get_attr("IFLA_ADDRESS")} if found.uplink else {}
                links.link("add", ifname=bridge, kind="bridge", br_stp_state=0, br_forward_delay=0, **words)
                index = index_of(links, bridge)
                address = links.get_links(index)[0].get_attr("IFLA_ADDRESS")
                links.link("set", index=index, ifalias=ALIAS, address=address)
                steps.reached("prepare:made")
            index = index_of(links, bridge)
            if found.uplink is not None:
                copy_parameters(str(request.uplink), bridge)
                if not found.is_joined:
                    links.link(
                        "set",
                        index=index,
                        address=found.uplink.get_attr("IFLA_ADDRESS"),
                        mtu=found.uplink.get_attr("IFLA_MTU"),
                    )
            links.link("set", index=index, state="up")
            if found.uplink is not None:
                _move(links, index, found)
    except NetlinkError as error:
        raise NetworkError(f"cannot make {bridge} what it should be: {error.args[-1]}") from error


def _move(links: IPRoute, bridge: int | None, found: _Found) -> None:
    """From here on frames come in on the bridge; what goes out may leave through the uplink until everything has moved."""
    uplink = found.uplink["index"]
    links.link("set", index=uplink, state="up")
    if not found.is_joined:
        links.link("set", index=uplink, master=bridge)
    steps.reached("prepare:joined")
    assert bridge is not None  # noqa: S101 - made or found above
    put(links, bridge, found.setup)
    steps.reached("prepare:given")
    take(links, uplink, found.setup)
    steps.reached("prepare:moved")


async def _before(request: Request, found: _Found, ask: Ask | None) -> list[str]:
    """Who answers on the uplink, and so must answer on the bridge: routers, who is logged in, else any neighbour.

    Raises:
        NetworkError: there is something to lose, and nobody who could say whether it is lost.
    """
    if request.uplink is None or not found.setup.addresses or ask is not None:
        return []
    known = [*found.setup.gateways, *_logged_in(found.setup)]
    answered = await answering(request.uplink, known, timeout_s=_PROBE_S) if known else []
    if not answered:
        others = await asyncio.to_thread(neighbours, request.uplink)
        answered = await answering(request.uplink, others, timeout_s=_PROBE_S) if others else []
    if not answered:
        raise NetworkError(
            f"nobody answers on {request.uplink}, so nobody could tell whether the host comes back",
            hint="`--confirm` has you say so; without an answer everything is put back",
        )
    return answered


def _logged_in(setup: Setup) -> list[str]:
    """Who is logged in over SSH here, when it is a neighbour. Source: ssh(1), SSH_CONNECTION."""
    client = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    try:
        peer = ip_address(client)
    except ValueError:
        return []
    networks = [ip_interface(f"{a.local or a.address}/{a.prefixlen}").network for a in setup.addresses]
    return [client] if any(peer in network for network in networks if network.version == peer.version) else []


# --- The guard ----------------------------------------------------------------------------------------------------------


class _guarded:  # noqa: N801 - reads as a state in `async with _guarded(…)`
    """A guard watches inside the block; leaving it without an error says that all is well, with one puts everything back.

    Gives a function that raises `NetworkError` unless the host is still reached.
    """

    def __init__(self, request: Request, found: _Found, files: Files) -> None:
        self._request = request
        self._journal = Journal(
            bridge=request.bridge,
            made=found.bridge is None,
            bridge_address=found.bridge.get_attr("IFLA_ADDRESS") if found.bridge else None,
            uplink=request.uplink,
            joined=found.uplink is not None and not found.is_joined,
            setup=found.setup,
            pid=os.getpid(),
            deadline=now() + request.timeout_s,
            files={str(path): path.read_text() if path.exists() else None for path in files.write},
            reload=files.reload if request.root == Path("/") else (),
        )

    async def __aenter__(self) -> Callable[[list[str], Ask | None], Awaitable[None]]:
        await _arm(self._request, self._journal)
        steps.reached("prepare:armed")
        return self._confirm

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        taken = claim(self._request.journal)
        if error is None and taken is not None:
            taken.unlink()
            steps.reached("prepare:confirmed")
            return
        if taken is not None:
            await asyncio.shield(asyncio.to_thread(restore, taken))
        else:
            await asyncio.shield(_ended(self._request))
        if error is None or isinstance(error, RoostError):
            reason = str(error) if error else f"nobody confirmed within {self._request.timeout_s:g} s"
            raise NetworkError(f"{reason}; everything is as it was before") from error

    async def _confirm(self, answered: list[str], ask: Ask | None) -> None:
        request, left = self._request, self._journal.deadline - now()
        if ask is not None:
            if not await ask(max(left, 0.0)):
                raise NetworkError(f"nobody confirmed within {request.timeout_s:g} s")
            return
        if answered:
            again = await answering(request.bridge, answered, timeout_s=max(left, 0.0), all_of_them=True)
            missing = [address for address in answered if address not in again]
            if missing:
                raise NetworkError(
                    f"{', '.join(missing)} answered before and does not answer on {request.bridge}"
                )


async def _arm(request: Request, journal: Journal) -> None:
    """Start the guard, and return when it watches. On failure nothing is left behind."""
    request.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    watched(request.journal).unlink(missing_ok=True)
    write_journal(request.journal, journal)
    argv = (sys.executable, "-m", "roost.host.network.guard", str(request.journal))
    log = request.journal.with_suffix(".log")
    try:
        if has_systemd() and _is_hosts_network():
            # Not a child: what a session leaves behind may be killed when it ends, and this one may end now.
            name = f"roost-prepare-{request.bridge}"
            await run(
                [
                    "systemd-run",
                    "--quiet",
                    "--collect",
                    f"--unit={name}",
                    f"--property=StandardError=append:{log}",
                    *argv,
                ]
            )
        else:
            await launch(Launch(name="roost-prepare", argv=argv, log=log), systemd=False)

        async def watches() -> bool:
            return watched(request.journal).exists() or not request.journal.exists()

        if not await poll_until(watches, timeout_s=_GUARD_S):
            raise HostError("the process that would put the network back does not start", hint=f"see {log}")
    except BaseException:
        request.journal.unlink(missing_ok=True)
        raise


def _is_hosts_network() -> bool:
    """Whether this is the network namespace of the host, where systemd's services are."""
    own, hosts = (Path(f"/proc/{pid}/ns/net").stat().st_ino for pid in ("self", 1))
    return own == hosts


async def _ended(request: Request) -> None:
    """Wait until a guard that puts the network back has done so."""

    async def gone() -> bool:
        return not watched(request.journal).exists()

    if not await poll_until(gone, timeout_s=request.timeout_s + 60):
        raise HostError(
            "the network is still being put back", hint=f"see {request.journal.with_suffix('.log')}"
        )


# --- Files --------------------------------------------------------------------------------------------------------------


def _write(files: Files) -> None:
    for path, text in files.write.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text, mode=0o600 if path.suffix in (".yaml", ".before-roost") else 0o644)
    steps.reached("prepare:written")


def _files_before(files: list[Path]) -> dict[str, str | None]:
    before: dict[str, str | None] = {}
    for path in files:
        kept = before_of(path)
        before[str(path)] = kept.read_text() if kept.exists() else None
        if kept.exists():
            before[str(kept)] = None
    return before


def _reload_of(request: Request, files: list[Path]) -> tuple[str, ...]:
    if request.root != Path("/") or not files:
        return ()
    return ("netplan", "apply") if any(path.suffix == ".yaml" for path in files) else ("networkctl", "reload")
