"""`roost vm`: one module for each group of commands.

Called by the command line. It must not know more of a VM than what the API tells.
"""

from __future__ import annotations

import click

from roost.cli.groups import LazyGroup

_SECTIONS = {
    "Make and change": {
        "plan": ("roost.cli.vm.create:plan", "Show what each hypervisor makes of a spec; change nothing."),
        "create": ("roost.cli.vm.create:create", "Make a VM from a spec, or from a name and an image."),
        "clone": ("roost.cli.vm.clone:clone", "Copy a VM as it is at this instant, memory and all."),
        "apply": ("roost.cli.vm.apply:apply", "Make a VM what a spec says, after showing the difference."),
        "edit": ("roost.cli.vm.edit:edit", "Change a VM's spec in your editor."),
        "delete": ("roost.cli.vm.power:delete", "Delete VMs; disks only when asked to."),
    },
    "Run": {
        "start": ("roost.cli.vm.power:start", "Boot VMs, or wake those that sleep."),
        "stop": ("roost.cli.vm.power:stop", "Ask VMs to power down, and force those that do not in time."),
        "reboot": ("roost.cli.vm.power:reboot", "Reboot the guest; changes of the spec keep waiting."),
        "restart": ("roost.cli.vm.power:restart", "Stop and start, so that changes of the spec take effect."),
        "pause": ("roost.cli.vm.power:pause", "Hold the vCPUs; memory stays in use."),
        "resume": ("roost.cli.vm.power:resume", "Let paused VMs go on."),
        "sleep": ("roost.cli.vm.power:sleep", "Save memory and release it; a wake goes on from there."),
        "wake": ("roost.cli.vm.power:wake", "Go on from where a sleeping VM was."),
        "wait": ("roost.cli.vm.watch:wait", "Wait until a VM is running, ready or stopped."),
    },
    "Look": {
        "list": ("roost.cli.vm.look:list_vms", "List the VMs of this host."),
        "show": ("roost.cli.vm.look:show", "Show all about a VM."),
        "logs": ("roost.cli.vm.watch:logs", "Print the serial console's log."),
        "events": ("roost.cli.vm.watch:events", "Follow what happens to VMs."),
        "screenshot": ("roost.cli.vm.watch:screenshot", "Save the display as a PNG."),
    },
    "Get in": {
        "exec": ("roost.cli.vm.execute:execute", "Run a command in the guest."),
        "cp": ("roost.cli.vm.cp:cp", "Copy files into a guest or out of it."),
        "console": ("roost.cli.vm.console:console", "Open the serial console; Ctrl-] leaves it."),
    },
    "Parts": {
        "snapshot": ("roost.cli.vm.snapshot:snapshot", "Points that a VM can go back to."),
        "disk": ("roost.cli.vm.disk:disk", "Add, remove and grow disks."),
        "nic": ("roost.cli.vm.nic:nic", "Add and remove network cards."),
    },
}


@click.group(cls=LazyGroup, sections=_SECTIONS)
def vm() -> None:
    """Make, run, look into and delete VMs."""
