"""`roost host install`: the agent as a systemd service of the host, or of one user; and the way back.

Callers: the CLI. It must not make VMs or state: the agent makes its own directories. Every step says what it does, and does
nothing when it is done already.

Two units: `roost-agent.service` runs the agent; `roost-guests.service` does nothing until the host shuts down, and then
has the agent empty the host while VMs, agent and network still work.
"""

from __future__ import annotations

import grp
import os
import sys
from collections.abc import Callable
from pathlib import Path

from roost.common.files import write_atomic
from roost.common.paths import Home
from roost.errors import HostError, PermissionMissing
from roost.host.commands import run
from roost.host.facts import has_systemd

GROUP = "roost"
"""Its members may use the agent's socket; that is as much as being root on this host."""
UNITS = ("roost-agent.service", "roost-guests.service")
_SYSTEM_DIRECTORY = Path("/etc/systemd/system")
_DRAIN_S = 1800
"""How long a host's shutdown waits for its VMs at most."""

Say = Callable[[str], object]


async def install(home: Home, *, user: bool, say: Say) -> None:
    """Set the agent up to run from the host's start on, and start it. An agent that runs with older units is restarted.

    Args:
        user: a service of this user, without root.
        say: called with one line for each step.

    Raises:
        PermissionMissing: the host's service needs root.
        HostError: systemd does not run this host, or refuses.
    """
    _require(user)
    if not user:
        await _ensure_group(say)
    changed = _write_units(unit_directory(user), render_units(user=user), say)
    systemctl = _systemctl(user)
    if changed:
        await run([*systemctl, "daemon-reload"])
    await run([*systemctl, "enable", "--quiet", *UNITS])
    if user:
        await run(["loginctl", "enable-linger"])
        say("the user's services run without a login (lingering is on)")
    await run([*systemctl, "restart" if changed else "start", UNITS[0]], timeout_s=330)
    await run([*systemctl, "start", UNITS[1]])
    say(f"the agent runs, and will after each boot; its socket is {home.agent_socket}")
    say(f"its log: journalctl {'--user ' if user else ''}-u {UNITS[0]}")
    if not user:
        say(f"who may use it, which is as much as being root: usermod -aG {GROUP} NAME")


async def uninstall(home: Home, *, user: bool, say: Say) -> None:
    """Stop the agent and remove its units. VMs run on; VMs, images, state and the group stay.

    Raises:
        PermissionMissing: the host's service needs root.
        HostError: systemd does not run this host, or refuses.
    """
    _require(user)
    directory, systemctl = unit_directory(user), _systemctl(user)
    present = [name for name in UNITS if (directory / name).exists()]
    for name in present:  # the agent first: without it the other one's stop shuts no VM down
        await run([*systemctl, "disable", "--quiet", "--now", name], timeout_s=330)
        (directory / name).unlink()
        say(f"removed {directory / name}")
    if present:
        await run([*systemctl, "daemon-reload"])
    say(f"the agent is not installed; VMs and images are still in {home.state}")


def render_units(*, user: bool, command: tuple[str, ...] | None = None) -> dict[str, str]:
    """The text of each unit. Pure but for `ROOST_HOME`, which a service for a home of its own needs, too.

    Args:
        command: how to run `roost`; None is this very program.
    """
    templates = Path(__file__).with_name("units")
    chosen = os.environ.get("ROOST_HOME")
    values = {
        "@ROOST@": " ".join(map(_quote, command or (sys.executable, "-m", "roost.cli.main"))),
        "@ENVIRONMENT@": f"Environment={_quote(f'ROOST_HOME={Path(chosen).absolute()}')}" if chosen else "",
        "@SANDBOX@": "" if user else (templates / "sandbox.conf").read_text().strip(),
        "@TARGET@": "default.target" if user else "multi-user.target",
        "@DRAIN_S@": str(_DRAIN_S),
    }
    units = {}
    for name in UNITS:
        text = (templates / name).read_text()
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        units[name] = text.replace("\n\n\n", "\n\n")
    return units


def unit_directory(user: bool) -> Path:
    """Where the administrator's, or the user's own, units lie. Source: systemd.unit(5)."""
    if not user:
        return _SYSTEM_DIRECTORY
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "systemd/user"


def _quote(word: str) -> str:
    """One word of a unit's command line. Source: systemd.service(5), command lines; systemd.unit(5), specifiers."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or " " in word else word


def _require(user: bool) -> None:
    if not user and os.geteuid() != 0:
        raise PermissionMissing(
            "a service of the host needs root",
            hint="sudo roost host install, or roost host install --user for this user alone",
        )
    if not has_systemd():
        raise HostError(
            "systemd does not run this host, so nothing can be installed",
            hint="run the agent yourself: roost agent serve",
        )


async def _ensure_group(say: Say) -> None:
    try:
        grp.getgrnam(GROUP)
    except KeyError:
        await run(["groupadd", "--system", GROUP])
        say(f"made the group {GROUP}")


def _write_units(directory: Path, units: dict[str, str], say: Say) -> bool:
    """True when one of them is new or other than before."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    changed = False
    for name, text in units.items():
        path = directory / name
        if path.exists() and path.read_text() == text:
            say(f"{path} is there already")
            continue
        write_atomic(path, text)
        say(f"wrote {path}")
        changed = True
    return changed


def _systemctl(user: bool) -> list[str]:
    return ["systemctl", "--user"] if user else ["systemctl"]
