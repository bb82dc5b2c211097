"""The networks of this home: made, changed, deleted, and kept true on the host.

Callers: the API; the agent's work on VMs, which asks for a network to be ready before a NIC comes up. What should be is
worked out from `network.json` of each network and from the VMs' records; `publish` makes bridges, DHCP servers and
firewall equal to it, and `reconcile` looks whether they still are.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

from roost.agent.addressing import Card as VmCard
from roost.agent.addressing import Cards, elsewhere
from roost.agent.store import Entry, Store
from roost.agent.tunnels import Tunnels
from roost.common.cleanup import even_if_cancelled
from roost.common.files import fsync_path, read_json, write_atomic, write_json
from roost.common.log import get_logger
from roost.common.paths import Home
from roost.errors import ConflictError, NotFoundError, RoostError, SpecError, StorageError, Unsupported
from roost.host.network import bridge, observe, vxlan
from roost.host.network.card import Card
from roost.host.network.dnsmasq import Dnsmasq, end_server
from roost.host.network.firewall import Firewall
from roost.host.network.rules import Entrance, Port, Segment, Tunnel, Wanted, Way
from roost.host.network.watch import TableWatch
from roost.model import network as kept
from roost.model.documents import validate
from roost.model.host import HostFacts
from roost.model.network import Allow, Network, NetworkSpec, Placement, PortForward, Reservation
from roost.model.overlay import settle_placement
from roost.model.subnets import Surroundings, Taken, free_number, settle_network
from roost.model.taps import home_word

log = get_logger(__name__)

MEND_AFTER_S = 0.2
"""From the first message that somebody changes our tables until they are looked at."""


class Networks:
    """All networks of a home. `start_up` first; `close` leaves bridges, servers and rules as they are."""

    def __init__(self, home: Home, host: HostFacts, store: Store) -> None:
        self._home = home
        self._host = host
        self._store = store
        self._networks: dict[str, Network] = {}
        self._servers: dict[str, Dnsmasq] = {}
        self._tunnels = Tunnels(self._owner)
        self._firewall = Firewall(home)
        self._lock = asyncio.Lock()
        self._watch: TableWatch | None = None
        self._mending: asyncio.Task[None] | None = None
        self.cards = Cards(store)
        self._served: dict[str, list[VmCard]] = {}
        """What each network's dnsmasq was told last."""
        self._probes: tuple[Port, ...] = ()
        """NICs of `verify`, while it runs."""
        self._has_tables = home.networks.is_dir()
        """There may be tables of ours, from an earlier agent too."""
        self.damaged: dict[str, str] = {}
        """Networks that could not be read, with the reason: shown, never touched."""

    # --- What there is ------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read all networks."""
        for path in sorted(self._home.networks.glob("*/network.json")):
            name = path.parent.name
            try:
                self._networks[name] = _read(path)
            except RoostError as error:
                self.damaged[name] = str(error)
                log.error("network cannot be read", network=name, error=str(error))

    def get(self, name: str) -> Network | None:
        return self._networks.get(name)

    def find(self, name: str) -> Network:
        """A network by its name.

        Raises:
            NotFoundError: there is none, with a hint when its file is damaged.
        """
        try:
            return self._networks[name]
        except KeyError as error:
            hint = self.damaged.get(name, "`roost network list` shows those of this host")
            raise NotFoundError(f"there is no network {name}", hint=hint) from error

    def all(self) -> list[Network]:
        return list(self._networks.values())

    def users(self, name: str) -> list[str]:
        """Names of the VMs that have, or want, a NIC on it."""
        return sorted(
            entry.name
            for entry in self._store.all()
            if any(nic.network == name for spec in (entry.spec, entry.applied) for nic in spec.nics)
        )

    def reservations(self, name: str) -> list[Reservation]:
        """Who has which address on a network, or on a plain bridge of that name."""
        network = self._networks.get(name)
        if network is not None:
            return [card.reservation for card in self.cards.on(name)]
        found = [
            Reservation(vm=entry.name, nic=index, mac=mac, network=name, name=entry.name, **_fixed(nic.ip))
            for entry in self._store.all()
            for index, (nic, mac) in enumerate(zip(entry.spec.nics, entry.record.macs, strict=False))
            if nic.bridge == name
        ]
        if not found:
            self.find(name)
        return found

    def leased(self, network: Network, mac: str) -> set[int]:
        """Places that clients other than this one hold a lease for, as far as is known."""
        places = set()
        for lease in self._server(network).leases():
            if lease.mac and lease.mac != mac:
                with contextlib.suppress(ValueError):
                    places.add(network.number_of(IPv4Address(lease.address)))
        return places

    def leases(self, name: str) -> dict[str, str]:
        """Address → MAC of what clients of a network hold; DHCPv6 clients have no MAC here."""
        network = self._networks.get(name)
        return (
            {} if network is None else {lease.address: lease.mac for lease in self._server(network).leases()}
        )

    def is_served(self, name: str) -> bool:
        """Whether its dnsmasq runs."""
        network = self._networks.get(name)
        return network is not None and self._server(network).find() is not None

    # --- Changing them ------------------------------------------------------------------------------------------------

    async def create(self, spec: NetworkSpec) -> Network:
        """A new network, ready for VMs.

        Raises:
            ConflictError: the name is taken.
            InvalidSpec: it does not fit in with this host; all reasons at once.
            Unsupported: the agent is not root.
            ToolMissing: dnsmasq or nft is not installed.
            NetworkError: the host refuses. Nothing is left behind.
        """
        if not self._host.is_root:
            raise Unsupported(
                "only an agent that runs as root can manage networks",
                hint="use the user-mode network, or run the agent as root: sudo roost host install",
            )
        async with self._lock:
            if spec.name in self._networks or spec.name in self.damaged:
                raise ConflictError(f"there is already a network {spec.name}", hint="choose another name")
            if spec.peers and spec.underlay is None:
                own = await asyncio.to_thread(vxlan.source_toward, spec.peers[0])
                spec = spec.model_copy(update={"underlay": own})
            network = settle_network(spec, await self._surroundings())
            directory = self._home.networks / network.name
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._networks[network.name] = network
            try:
                self._save(network)
                await self._apply_rules()
                await self._make_ready(network)
            except BaseException:
                await even_if_cancelled(self._take_back(network))
                raise
        log.info("network created", network=network.name, bridge=network.bridge, ipv4=network.ipv4)
        return network

    async def delete(self, name: str) -> None:
        """Remove a network that nobody uses, and all that belongs to it.

        Raises:
            ConflictError: VMs are on it, or another network's rule names it.
        """
        async with self._lock:
            network = self.find(name)
            if users := self.users(name):
                raise ConflictError(
                    f"network {name} is used by {', '.join(users)}",
                    hint="delete these VMs, or take their NICs away, first",
                )
            for other in self.all():
                if any(allow.to == name for allow in other.allows):
                    self._put(other, allows=tuple(allow for allow in other.allows if allow.to != name))
            await self._take_back(network)
        log.info("network deleted", network=name)

    async def allow(self, name: str, allow: Allow) -> Network:
        """Let VMs of a network reach those of another one. Idempotent."""
        async with self._lock:
            network, target = self.find(name), self.find(allow.to)
            if network is target:
                raise SpecError(f"VMs of network {name} reach each other already")
            if allow.port is None:  # the protocol has no meaning then
                allow = Allow(to=allow.to)
            if allow not in network.allows:
                network = self._put(network, allows=(*network.allows, allow))
            await asyncio.to_thread(bridge.ensure_bridge, network, self._owner)
            await self._apply_rules()
            return network

    async def deny(self, name: str, allow: Allow) -> Network:
        """Take back what `allow` let through; without a port everything between the two.

        Raises:
            NotFoundError: it was not allowed.
        """
        async with self._lock:
            network = self.find(name)
            gone = [
                known for known in network.allows if known.to == allow.to and allow.port in (None, known.port)
            ]
            gone = [known for known in gone if allow.port is None or known.protocol == allow.protocol]
            if not gone:
                raise NotFoundError(
                    f"nothing of that is allowed from {name} to {allow.to}",
                    hint=f"`roost network show {name}` shows what is",
                )
            network = self._put(network, allows=tuple(known for known in network.allows if known not in gone))
            await self._apply_rules()
            return network

    async def forward(self, name: str, forward: PortForward) -> Network:
        """Have a port of the host lead to a VM.

        Raises:
            NotFoundError: there is no such VM on the network.
            ConflictError: the port is forwarded, or listened on, already.
            SpecError: the host has no such address.
        """
        async with self._lock:
            network = self.find(name)
            if forward in network.forwards:
                return network
            if network.mode == "isolated":
                raise SpecError(
                    f"network {name} is isolated: nothing reaches in", hint="make one with mode nat or routed"
                )
            if forward.vm not in {reservation.vm for reservation in self.reservations(name)}:
                raise NotFoundError(
                    f"there is no VM {forward.vm} on network {name}",
                    hint=f"`roost network reservations {name}` lists those that are",
                )
            await self._refuse_taken_port(forward)
            network = self._put(network, forwards=(*network.forwards, forward))
            await self._apply_rules()
            return network

    async def unforward(self, name: str, protocol: str, host_port: int, host: str | None) -> Network:
        """Take a forward back."""
        async with self._lock:
            network = self.find(name)
            left = tuple(
                forward
                for forward in network.forwards
                if (forward.protocol, forward.host_port, forward.host) != (protocol, host_port, host)
            )
            if left == network.forwards:
                raise NotFoundError(
                    f"port {host_port}/{protocol} is not forwarded on network {name}",
                    hint=f"`roost network show {name}` shows the forwards",
                )
            network = self._put(network, forwards=left)
            await self._apply_rules()
            return network

    async def place(self, name: str, placement: Placement) -> Network:
        """Take note of where the rest of a network is, instead of what was known before. Idempotent.

        Raises:
            InvalidSpec: the network is of one host, or an address does not fit; all problems at once.
        """
        async with self._lock:
            network = self.find(name)
            settled = settle_placement(network, placement)
            if (settled.peers, settled.nics) != (network.peers, network.remotes):
                network = self._put(network, peers=settled.peers, remotes=settled.nics)
            self._tunnels.doubt(name)
            self._served.pop(name, None)
            await self._apply_rules()
            await self._make_ready(network)
            return network

    async def _refuse_taken_port(self, forward: PortForward) -> None:
        place = f"port {forward.host_port}/{forward.protocol}"
        for other in self.all():
            for known in other.forwards:
                same = (known.protocol, known.host_port) == (forward.protocol, forward.host_port)
                if same and (None in (known.host, forward.host) or known.host == forward.host):
                    raise ConflictError(
                        f"{place} leads to {known.vm} on network {other.name} already",
                        hint="take another port, or remove that forward",
                    )
        addresses = await asyncio.to_thread(observe.own_addresses)
        if forward.host is not None and forward.host not in addresses:
            raise SpecError(
                f"this host has no address {forward.host}", hint=f"it has {', '.join(sorted(addresses))}"
            )
        if await asyncio.to_thread(observe.is_listening, forward.protocol, forward.host_port, forward.host):
            raise ConflictError(
                f"a process of the host listens on {place}: the forward would take it away",
                hint="take another port",
            )

    # --- Keeping the host true ----------------------------------------------------------------------------------------

    async def start_up(self) -> None:
        """Have every network ready, and notice from now on when somebody changes the firewall. Needs the VMs loaded."""
        if not self._host.is_root:
            return
        await self.reconcile(thorough=True)
        try:
            self._watch = TableWatch(self._firewall.table, self._mend_soon)
        except OSError as error:
            log.warning("changes of nftables cannot be heard", error=str(error))

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.close()
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait({self._mending})

    async def publish(self, entry: Entry | None = None) -> None:
        """Make reservations and rules equal to what the VMs' records say. Cheap when nothing has changed.

        Args:
            entry: the VM that needs it now; trouble that does not concern it is logged.

        Raises:
            NetworkError: a network of this VM, or the limits of its NICs, cannot be made ready.
        """
        if not self._host.is_root:
            return
        needed = _networks_of(entry)
        async with self._lock:
            try:
                await self._apply_rules()
            except RoostError as error:
                if needed or (entry is not None and _has_limits(entry)):
                    raise
                log.error("firewall not changed", error=str(error))
            for network in self.all():
                try:
                    await self._make_ready(network)
                except RoostError as error:
                    if network.name in needed:
                        raise
                    log.warning("network not ready", network=network.name, error=str(error))

    async def forget(self, vm: str) -> None:
        """A VM is gone: its forwards go, too, and then its reservations and rules. Trouble is logged."""
        for network in self.all():
            left = tuple(forward for forward in network.forwards if forward.vm != vm)
            if left != network.forwards:
                self._put(network, forwards=left)
        await self.publish()

    @contextlib.asynccontextmanager
    async def probes(self, names: list[str]) -> AsyncIterator[list[Card]]:
        """A NIC of the caller's own on each of these networks, with an address that nobody has and the rules of a VM.

        Raises:
            ConflictError: somebody else probes at this moment.
            NoCapacityError: a network has no free address.
        """
        if self._probes:
            raise ConflictError("networks are being verified already", hint="wait for it")
        ports: list[Port] = []
        used: dict[str, set[int]] = {}
        for name in names:
            network = self.find(name)
            held = (IPv4Address(r.ipv4) for r in self.reservations(name) if r.ipv4)
            taken = used.setdefault(name, {network.number_of(address) for address in held})
            place = free_number(network, taken, (), secrets.token_hex(8))
            taken.add(place)
            ipv4, ipv6 = network.addresses(place)
            mac = ":".join(f"{octet:02x}" for octet in (0x02, *secrets.token_bytes(5)))
            ports.append(Port(f"rp{secrets.token_hex(5)}", mac, str(ipv4), str(ipv6)))
        self._probes = tuple(ports)
        cards: list[Card] = []
        try:
            await self.publish()
            for name, port in zip(names, ports, strict=True):
                place_of = self.find(name).bridge
                cards.append(
                    await Card.open(port.tap, place_of, mac=port.mac, ipv4=port.ipv4, ipv6=port.ipv6)
                )
            yield cards
        finally:
            for card in cards:
                card.close()
            self._probes = ()
            await self.publish()

    async def reconcile(self, *, thorough: bool = False) -> list[str]:
        """Look at everything, and put right what is not as it should be.

        Returns what was done, a sentence each. Trouble with one network never keeps the others from it.

        Args:
            thorough: remove, too, what belongs to no network. Only an agent that was killed leaves such things, and to
                look for them means to look at every link of the host.
        """
        done: list[str] = []
        if not self._host.is_root or not self._home.networks.is_dir():
            return done
        async with self._lock:
            for network in self.all():
                try:
                    if not await asyncio.to_thread(bridge.is_intact, network):
                        await asyncio.to_thread(self._mend_bridge, network)
                        done.append(f"bridge {network.bridge} put right")
                    if self._server(network).find() is None:
                        done.append(f"dnsmasq of {network.name} started")
                    done += await self._tunnels.mend(network, _macs(self.cards.on(network.name)))
                    await self._make_ready(network)
                    self._server(network).trim()
                except RoostError as error:
                    log.error("network not ready", network=network.name, error=str(error))
            try:
                if thorough:
                    done += await self._sweep()
                self._firewall.doubt()
                if await self._apply_rules():
                    done.append("firewall rules put right")
            except RoostError as error:
                log.error("firewall not reconciled", error=str(error))
        for sentence in done:
            log.info("network reconciled", what=sentence)
        return done

    def wanted(self) -> Wanted:
        """All that the firewall is to hold."""
        by_vm: dict[tuple[str, str], tuple[str, str]] = {}
        for card in self.cards.all() if any(network.forwards for network in self.all()) else ():
            by_vm.setdefault((card.address.network, card.vm), (card.address.ipv4, card.address.ipv6))
        return Wanted(
            segments=tuple(map(_segment, self.all())),
            ports=(*self.cards.ports(), *self._probes),
            ways=tuple(self._ways()),
            entrances=tuple(
                Entrance(f.host or "", f.protocol, f.host_port, *by_vm[network.name, f.vm], f.guest_port)
                for network in self.all()
                for f in network.forwards
                if (network.name, f.vm) in by_vm
            ),
        )

    def _ways(self) -> Iterator[Way]:
        for network in self.all():
            for allow in network.allows:
                if (target := self._networks.get(allow.to)) is not None:
                    yield Way(network.bridge, target.bridge, allow.protocol, allow.port)

    async def _apply_rules(self) -> bool:
        """What is wanted into the firewall, whose tables go with the last of it; whether somebody had changed them."""
        wanted = self.wanted()
        if wanted != Wanted():
            self._has_tables = True
            return await self._firewall.apply(wanted)
        if self._has_tables:
            await self._firewall.remove()
            self._has_tables = False
        return False

    async def _make_ready(self, network: Network) -> None:
        """Bridge and DHCP server; nothing is looked at closely, for `reconcile` does."""
        try:
            socket.if_nametoindex(network.bridge)
        except OSError:
            await asyncio.to_thread(self._mend_bridge, network)
        server, cards = self._server(network), self.cards.on(network.name)
        await self._tunnels.ensure(network, _macs(cards))
        if cards != self._served.get(network.name) or server.find() is None:
            self._served.pop(network.name, None)
            await server.ensure((card.reservation for card in cards), elsewhere(network))
            self._served[network.name] = cards

    def _mend_bridge(self, network: Network) -> None:
        bridge.ensure_bridge(network, self._owner)
        bridge.attach_ports(network.bridge, [card.port.tap for card in self.cards.on(network.name)])

    async def _sweep(self) -> list[str]:
        """Remove tunnels, bridges and DHCP servers of this home that belong to no network."""
        done = await self._tunnels.sweep(self.all(), self.damaged)
        names = {network.bridge for network in self.all()}
        for name, whose in (await asyncio.to_thread(bridge.own_bridges, self._owner)).items():
            if name not in names and whose not in self.damaged:
                await asyncio.to_thread(bridge.remove_bridge, name, self._owner)
                done.append(f"bridge {name} of no network removed")
        if self._home.networks.is_dir():
            for directory in self._home.networks.iterdir():
                if directory.is_dir() and not (directory / "network.json").exists():
                    await self._remove_directory(directory.name, directory)
                    done.append(f"what was left of network {directory.name} removed")
        return done

    async def _take_back(self, network: Network) -> None:
        """Remove a network from memory, host and disk. Its file goes first, so that an agent that is killed here, or its
        next, removes the rest as belonging to no network.
        """
        directory = self._home.networks / network.name
        self._networks.pop(network.name, None)
        (directory / "network.json").unlink(missing_ok=True)
        fsync_path(directory)
        try:
            await self._tunnels.remove(network)
            await asyncio.to_thread(bridge.remove_bridge, network.bridge, self._owner)
            await self._apply_rules()
        finally:
            await self._remove_directory(network.name, directory)

    async def _remove_directory(self, name: str, directory: Path) -> None:
        self._servers.pop(name, None)
        self._served.pop(name, None)
        await end_server(directory)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _mend_soon(self) -> None:
        if self._mending is None or self._mending.done():
            self._mending = asyncio.create_task(self._mend(), name="mend-firewall")

    async def _mend(self) -> None:
        await asyncio.sleep(MEND_AFTER_S)
        async with self._lock:
            self._firewall.doubt()
            try:
                if await self._apply_rules():
                    log.warning("firewall rules put right: somebody had changed them")
            except RoostError as error:
                log.error("firewall not put right", error=str(error))

    # --- Small things -------------------------------------------------------------------------------------------------

    @property
    def _owner(self) -> str:
        """What the aliases of this home's bridges begin with."""
        return f"roost:home={home_word(self._home.state)},network="

    def _server(self, network: Network) -> Dnsmasq:
        known = self._servers.get(network.name)
        if known is None:
            directory = self._home.networks / network.name
            unit = f"roost-dns-{self._firewall.table.removeprefix('roost').strip('_') or 'system'}-{network.name}"
            known = Dnsmasq(network, directory, unit, systemd=self._host.systemd)
            self._servers[network.name] = known
        return known

    def _put(self, network: Network, **changes: object) -> Network:
        """Change a network, durably."""
        changed = network.model_copy(update=changes)
        self._save(changed)
        self._networks[network.name] = changed
        return changed

    def _save(self, network: Network) -> None:
        path = self._home.networks / network.name / "network.json"
        write_json(path, network.model_dump(mode="json"), mode=0o600)

    async def _surroundings(self) -> Surroundings:
        mine = [Taken(s, f"the network {n.name}") for n in self.all() for s in (n.subnet4, n.subnet6)]
        bridges = frozenset(network.bridge for network in self.all())
        routes = await asyncio.to_thread(observe.observe_routes, bridges)
        links, bonded = await asyncio.to_thread(observe.observe_links, self._owner)
        addresses = await asyncio.to_thread(vxlan.own_addresses)
        return Surroundings((*mine, *routes), self._prefix6(), links | bridges, bonded, addresses)

    def _prefix6(self) -> IPv6Network:
        """This home's own prefix, made once. Source: RFC 4193, 3.2: 40 random bits after fd."""
        path = self._home.networks / "prefix6"
        try:
            return IPv6Network(path.read_text().strip())
        except FileNotFoundError:
            self._home.networks.mkdir(mode=0o711, exist_ok=True)
            prefix = IPv6Network((int.from_bytes(b"\xfd" + secrets.token_bytes(5), "big") << 80, 48))
            write_atomic(path, f"{prefix}\n")
            return prefix


def _networks_of(entry: Entry | None) -> set[str]:
    """The networks that a VM's record says it is on."""
    return {address.network for address in (entry.record.addresses if entry else ()) if address is not None}


def _macs(cards: list[VmCard]) -> set[str]:
    return {card.port.mac for card in cards}


def _has_limits(entry: Entry) -> bool:
    return any(nic.bandwidth or nic.packets for nic in entry.applied.nics)


def _segment(network: Network) -> Segment:
    tunnel = None
    if network.underlay is not None:
        tunnel = Tunnel(network.tunnel, network.vni, network.underlay, network.peers, network.mac)
    return Segment(
        network.bridge,
        network.mode,
        network.ipv4,
        network.ipv6,
        network.gateway4,
        network.gateway6,
        tenant=network.net_id is not None,
        tunnel=tunnel,
    )


def _fixed(ip: str | None) -> dict[str, str]:
    """The address that a spec fixes on a plain bridge."""
    if ip is None:
        return {}
    address = ip.partition("/")[0]
    return {"ipv6" if ":" in address else "ipv4": address}


def _read(path: Path) -> Network:
    """Raises: StorageError: damaged, or of a newer format."""
    document = read_json(path)
    found = document.get("format") if isinstance(document, dict) else None
    if isinstance(found, int) and found > kept.FORMAT:
        raise StorageError(
            f"{path} was written by a newer Roost (format {found}, this one knows {kept.FORMAT})",
            hint="update Roost on this host",
        )
    try:
        return validate(Network, document, source=str(path))
    except SpecError as error:
        raise StorageError(f"{path} is damaged: {error}", hint="restore it from a backup") from error
