"""`roost vm start`, `stop`, `reboot`, `restart`, `pause`, `resume`, `sleep`, `wake` and `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from roost.cli.app import App
from roost.cli.options import output_option, timeout_option, vms_argument
from roost.cli.vm.each import for_each

if TYPE_CHECKING:
    from roost.client.operations import Operation

Names = tuple[str, ...]


def _act(app: App, names: Names, verb: str, **body: Any) -> int:
    def begin(name: str, wait_s: float) -> Operation:
        return app.agent.vms.act(name, verb, wait_s=wait_s, **body)

    return for_each(app, names, begin)


def _simple(verb: str, text: str) -> click.Command:
    """A command that does one thing to each VM and has no options of its own."""

    @click.command(verb, help=text)
    @vms_argument
    @output_option
    @click.pass_obj
    def command(app: App, names: Names) -> int:
        return _act(app, names, verb)

    return command


reboot = _simple("reboot", "Reboot the guest; changes of the spec keep waiting.")
pause = _simple("pause", "Hold the vCPUs; memory stays in use.")
resume = _simple("resume", "Let paused VMs go on.")
sleep = _simple("sleep", "Save memory and release it; a wake goes on from there.")
wake = _simple("wake", "Go on from where a sleeping VM was.")


@click.command()
@vms_argument
@click.option("--cold", is_flag=True, help="Give a saved state up and boot, for one that cannot be woken.")
@output_option
@click.pass_obj
def start(app: App, names: Names, cold: bool) -> int:
    """Boot VMs, or wake those that sleep."""

    def begin(name: str, wait_s: float) -> Operation:
        return app.agent.vms.start(name, cold=cold, wait_s=wait_s)

    return for_each(app, names, begin)


@click.command()
@vms_argument
@timeout_option("How long a guest may take; without it, what its spec says.")
@click.option("--force", is_flag=True, help="Do not ask the guest: cut the power, or give a saved state up.")
@output_option
@click.pass_obj
def stop(app: App, names: Names, timeout: float | None, force: bool) -> int:
    """Ask VMs to power down, and force those that do not in time."""
    return _act(app, names, "stop", timeout=timeout, force=force)


@click.command()
@vms_argument
@timeout_option("How long a guest may take to power down.")
@output_option
@click.pass_obj
def restart(app: App, names: Names, timeout: float | None) -> int:
    """Stop and start, so that changes of the spec take effect."""
    return _act(app, names, "restart", timeout=timeout)


@click.command()
@vms_argument
@click.option("--force", is_flag=True, help="Cut the power of a VM that runs, and throw a saved state away.")
@click.option("--delete-disks", is_flag=True, help="Delete the disks that Roost made for it, too.")
@output_option
@click.pass_obj
def delete(app: App, names: Names, force: bool, delete_disks: bool) -> int:
    """Delete VMs; disks only when asked to."""

    def begin(name: str, wait_s: float) -> Operation:
        return app.agent.vms.delete(name, force=force, delete_disks=delete_disks, wait_s=wait_s)

    return for_each(app, names, begin)
