"""The home's two nftables tables: put in place, changed, compared with what should be there, and mended.

Callers: `agent.networks`. What the tables hold is `rules`' business; here is how it gets into the kernel: each change is
one transaction of `nft`, so that there is no moment with half of it. The tables are Roost's own, and no other is touched.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from roost.common.log import get_logger
from roost.common.paths import Home
from roost.errors import HostError, NetworkError, ToolMissing
from roost.host.commands import run
from roost.host.network import rules
from roost.host.network.rules import Elements, Wanted

log = get_logger(__name__)

_FAMILIES = ("bridge", "inet")


class Firewall:
    """One home's tables. Changes are made one after the other."""

    def __init__(self, home: Home) -> None:
        self.table = rules.table_name(home)
        self._lock = asyncio.Lock()
        self._held: Wanted | None = None
        """What the tables hold, as far as we know; None: to be found out."""
        self._skeleton = ""
        """Chains, rules and sets as the kernel listed them when we had just made them, with their handles: whoever edits
        one of them changes this."""

    def doubt(self) -> None:
        """Somebody may have changed the tables: the next `apply` looks, instead of relying on what it knows."""
        self._held = None

    async def apply(self, wanted: Wanted) -> bool:
        """Make the tables hold what is wanted; whether they had been changed by somebody else.

        Nothing is run when nothing has changed. One NIC more among thousands is one NIC's work.

        Raises:
            ToolMissing: nft is not installed.
            NetworkError: the kernel refuses; the tables are what they were.
        """
        async with self._lock:
            if self._held is None:
                return await self._mend(wanted)
            held, self._held = self._held, None
            if text := rules.change(self.table, held, wanted):
                try:
                    await self._run(text)
                except NetworkError as error:
                    log.warning("firewall was changed by somebody else", error=str(error))
                    return await self._mend(wanted)
            self._held = wanted
            return False

    async def remove(self) -> None:
        """Take both tables away. Idempotent."""
        async with self._lock:
            lines = [
                f"{verb} table {family} {self.table}" for family in _FAMILIES for verb in ("add", "delete")
            ]
            await self._run("\n".join(lines) + "\n")
            self._held, self._skeleton = None, ""

    async def _mend(self, wanted: Wanted) -> bool:
        """Compare, and where anything is different put all of it in place anew, in one transaction."""
        new = rules.elements(wanted)
        edited = bool(self._skeleton)
        if edited and await self._observe() == (self._skeleton, new):
            self._held = wanted
            return False
        await self._run(rules.rebuild(self.table, new))
        self._skeleton, _ = await self._observe()
        self._held = wanted
        return edited

    async def _observe(self) -> tuple[str, Elements]:
        listings = await asyncio.gather(*(self._list(family) for family in _FAMILIES))
        return read_listings(listings)

    async def _list(self, family: str) -> str:
        try:
            return (await run(["nft", "-j", "list", "table", family, self.table])).decode()
        except ToolMissing:
            raise
        except HostError:
            return '{"nftables": []}'  # there is no such table

    async def _run(self, text: str) -> None:
        try:
            await run(["nft", "-f", "-"], stdin=text.encode())
        except ToolMissing:
            raise
        except HostError as error:
            raise NetworkError(
                f"the firewall refuses its rules: {_first_line(error)}", context=error.context
            ) from error


def read_listings(listings: list[str]) -> tuple[str, Elements]:
    """What `nft -j list table` printed, as the skeleton (all but elements and limits) and the elements. Pure."""
    skeleton: list[Any] = []
    found: Elements = rules.elements(Wanted())
    for listing in listings:
        for entry in json.loads(listing)["nftables"]:
            ((kind, body),) = entry.items()
            if kind in ("metainfo", "limit"):
                continue
            if kind in ("set", "map"):
                place = body["family"], body["name"]
                content = body.pop("elem", [])
                if place in found:
                    found[place] = dict(_element(element, kind) for element in content)
            skeleton.append(entry)
    return json.dumps(skeleton), found


def _element(element: Any, kind: str) -> tuple[str, str]:
    if kind == "set":
        return _word(element), ""
    key, value = element
    return _word(key), _word(value)


def _word(value: Any) -> str:
    """An element as `rules.elements` writes it."""
    match value:
        case {"elem": {"val": inner}}:
            return _word(inner)
        case {"concat": parts}:
            return " . ".join(map(_word, parts))
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"goto": {"target": target}}:
            return f"goto {target}"
        case _:
            return str(value)


def _first_line(error: HostError) -> str:
    text = str(error.context.get("stderr", "")).strip()
    return text.splitlines()[0] if text else error.message
