"""Taps on bridges, in a namespace."""

from __future__ import annotations

import asyncio
import fcntl
import json
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from roost.errors import NetworkError
from roost.host.external import revoke
from roost.host.network.tap import FoundTap, Tap, find_taps, sweep_taps
from roost.model.plan import TapResource
from roost.model.taps import TapOwner, tap_name

OWNER = TapOwner.of(Path("/var/lib/roost"), "vabcdefghijk", "web", 0)
TAP = TapResource(name="tvabcdefghijk0", alias=OWNER.alias, bridge="br0", mac="02:00:00:00:00:01")


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def link(name: str) -> dict[str, Any]:
    return dict(links()[name])


def links() -> dict[str, Any]:
    shown = subprocess.run(["ip", "-details", "-json", "link"], check=True, capture_output=True).stdout
    return {found["ifname"]: found for found in json.loads(shown)}


@pytest.fixture(autouse=True)
def bridge(namespace: str) -> Iterator[None]:
    ip("link add br0 mtu 9000 type bridge")
    ip("link set br0 up")
    yield
    for uid in (700001, 700002):
        revoke(Path("/dev/net/tun"), uid)


async def taps() -> list[FoundTap]:
    return await asyncio.to_thread(find_taps)


async def test_a_tap_is_its_vms_own_and_says_so() -> None:
    await Tap(TAP, 700001).ensure()
    tap = link(TAP.name)
    assert (tap["master"], tap["ifalias"], tap["mtu"]) == ("br0", OWNER.alias, 9000)
    assert "UP" in tap["flags"]
    assert tap["linkinfo"]["info_data"]["user"] == 700001
    assert not tap["linkinfo"]["info_data"]["multi_queue"]
    assert tap["address"] == "fe:00:00:00:00:01"
    assert link("br0")["mtu"] == 9000
    assert await taps() == [FoundTap(TAP.name, OWNER, in_use=False)]


async def test_a_tap_that_is_there_is_used() -> None:
    await Tap(TAP, 700001).ensure()
    before = link(TAP.name)
    await Tap(TAP, 700001).ensure()
    assert link(TAP.name)["ifindex"] == before["ifindex"]


@pytest.mark.parametrize(("queues", "uid"), [(2, 700001), (1, 700002)])
async def test_a_tap_that_qemu_could_not_open_is_made_anew(queues: int, uid: int) -> None:
    await Tap(TAP, 700001).ensure()
    before = link(TAP.name)
    await Tap(TAP.model_copy(update={"queues": queues}), uid).ensure()
    after = link(TAP.name)
    assert after["ifindex"] != before["ifindex"]
    assert after["linkinfo"]["info_data"]["multi_queue"] == (queues > 1)
    assert (after["master"], after["linkinfo"]["info_data"]["user"]) == ("br0", uid)


async def test_a_tap_never_gives_its_bridge_another_address() -> None:
    ip("link add uplink type veth peer name wire")
    ip("link set uplink address 52:54:00:00:00:01 master br0 up")
    assert link("br0")["address"] == "52:54:00:00:00:01"
    await Tap(TAP, 700001).ensure()
    assert link("br0")["address"] == "52:54:00:00:00:01"


async def test_a_bridge_that_is_not_there_is_refused_with_what_makes_it() -> None:
    with pytest.raises(NetworkError, match="there is no bridge br7") as raised:
        await Tap(TAP.model_copy(update={"bridge": "br7"}), 700001).ensure()
    assert "roost host prepare --bridge br7" in raised.value.hint
    assert await taps() == []


async def test_a_nic_goes_on_no_other_kind_of_interface() -> None:
    ip("link add eth1 type veth peer name wire")
    with pytest.raises(NetworkError, match="eth1 is not a bridge") as raised:
        await Tap(TAP.model_copy(update={"bridge": "eth1"}), 700001).ensure()
    assert "--uplink eth1" in raised.value.hint
    assert await taps() == []


async def test_a_released_tap_is_gone_and_release_can_be_repeated() -> None:
    await Tap(TAP, 700001).ensure()
    for _ in range(2):
        await Tap(TAP, 700001).release()
        assert TAP.name not in links()


async def test_only_taps_that_say_so_are_of_a_roost() -> None:
    ip("tuntap add dev tvother mode tap")
    ip("link add link-of-ours type veth peer name wire")
    ip(f"link set link-of-ours alias {OWNER.alias}")
    assert await taps() == []


async def test_a_sweep_takes_what_nobody_needs_and_nobody_has_open() -> None:
    gone = TapOwner.of(Path("/var/lib/roost"), "vgonegonegon", "gone", 0)
    busy = TapOwner.of(Path("/var/lib/roost"), "vbusybusybus", "busy", 0)
    for owner in (OWNER, gone, busy):
        name = tap_name(owner.vm_id, 0)
        await Tap(TAP.model_copy(update={"name": name, "alias": owner.alias}), 0).ensure()
    with opened(tap_name(busy.vm_id, 0)):
        assert await sweep_taps(lambda owner: owner == OWNER) == [gone]
        assert [(tap.owner, tap.in_use) for tap in await taps()] == [(OWNER, False), (busy, True)]
    assert await sweep_taps(lambda owner: owner == OWNER) == [busy]


@contextmanager
def opened(name: str) -> Iterator[None]:
    """Have a tap open, as QEMU has. Source: linux/if_tun.h (TUNSETIFF, IFF_TAP, IFF_NO_PI)."""
    with Path("/dev/net/tun").open("r+b", buffering=0) as tun:
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", name.encode(), 0x1002))
        yield
