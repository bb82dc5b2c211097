"""`roost host check`: every prerequisite of VMs on this host, and for each miss the one command that mends it.

Callers: the agent's host API. It changes nothing and never fails: what cannot be looked at becomes a warning that
says so.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from roost.common.paths import Home
from roost.errors import RoostError
from roost.host.commands import run
from roost.host.distribution import this_family
from roost.host.prerequisites import ALL, Surroundings
from roost.model.host import Check, HostFacts


async def run_checks(home: Home, facts: HostFacts) -> list[Check]:
    """One `Check` for each prerequisite, always the same ones in the same order."""
    around = Surroundings(
        facts=facts,
        home=home,
        family=this_family(),
        root=Path("/"),
        forward_policy=await forward_policy(),
        docker_user=tuple((await _iptables("DOCKER-USER")).splitlines()),
    )
    return [look(name, around) for name in ALL]


def look(name: str, around: Surroundings) -> Check:
    """One check by its name."""
    try:
        check = ALL[name](around)
        return (
            check.model_copy(update={"remedy": as_root(check.remedy)}) if not around.facts.is_root else check
        )
    except (OSError, ValueError, RoostError) as error:  # a file of /proc that is missing or odd here
        return Check(name=name, status="warning", detail=f"this could not be looked at: {error}")


def as_root(command: str) -> str:
    """The same command for somebody who is not root."""
    if re.search(r"[&|><]", command):
        return f"sudo sh -c {shlex.quote(command)}"
    return f"sudo {command}" if command else ""


async def forward_policy() -> str:
    """What happens to forwarded packets that no iptables rule takes: `ACCEPT`, `DROP`, or empty: not to be seen."""
    return parse_forward_policy(await _iptables("FORWARD"))


async def _iptables(chain: str) -> str:
    try:
        return (await run(["iptables", "-S", chain], timeout_s=10)).decode()
    except RoostError:
        return ""  # no iptables, no right to ask, or no such chain: then Docker has set none either


def parse_forward_policy(rules: str) -> str:
    """The policy in what `iptables -S FORWARD` prints."""
    match = re.search(r"^-P FORWARD (\w+)$", rules, re.MULTILINE)
    return match[1] if match else ""
