"""`roost vm plan`, `roost vm create`."""

from __future__ import annotations

import shlex
from typing import Any

import click

from roost.cli.app import App
from roost.cli.errors import DONE, REFUSED
from roost.cli.options import complete_images, output_option
from roost.cli.output import Json
from roost.cli.vm.each import seconds_of
from roost.cli.vm.logins import first_login
from roost.cli.vm.specs import FILE, read_spec
from roost.cli.vm.views import after_action
from roost.common.units import human_size

_NEXT_LINE = " \\\n      "


@click.command()
@click.argument("file", type=FILE)
@output_option
@click.pass_obj
def plan(app: App, file: str) -> int:
    """Show what each hypervisor makes of a spec; change nothing.

    FILE is YAML or JSON, `-` is standard input. Exit status 4 when no hypervisor of this host accepts it.
    """
    plans = app.agent.vms.plans(read_spec(file))
    app.show(plans, lambda plans: "\n\n".join(map(_plan_text, plans)))
    return DONE if any(plan["accepted"] for plan in plans) else REFUSED


def _plan_text(plan: Json) -> str:
    """What it would make and run, then the verdict with its reasons: that is what is still seen when it was long."""
    if plan["accepted"]:
        verdict = (
            f"{click.style('accepted', fg='green')}, {plan['accelerator']}, {plan['machine']}, {plan['cpu']}"
        )
    else:
        verdict = click.style("refused", fg="red")
    lines = [f"  {_resource_text(resource)}" for resource in plan["resources"]]
    if plan["argv"]:
        lines.append(_command_text(plan["argv"]))
    lines.append(f"{click.style(plan['hypervisor'], bold=True)}: {verdict}")
    lines += [f"  {reason}" for reason in plan["refusals"]]
    lines += [f"  {click.style('warning:', fg='yellow')} {warning}" for warning in plan["warnings"]]
    return "\n".join(lines)


def _command_text(argv: list[str]) -> str:
    """The command line with one option a line, fit to be pasted into a shell."""
    words = [(_NEXT_LINE if word.startswith("-") else " ") + shlex.quote(word) for word in argv[1:]]
    return f"  run: {shlex.quote(argv[0])}{''.join(words)}"


def _resource_text(resource: Json) -> str:
    """`disk root: /var/lib/…/root.qcow2, 2.0 GiB, on /var/lib/roost/images/…`."""
    name = resource.get("name") or resource.get("purpose") or ""
    size = resource.get("size_bytes")
    facts = [
        resource.get("path") or resource.get("state") or "",
        human_size(size) if size else "",
        f"on {resource['backing']}" if resource.get("backing") else "",
        f"from {resource['template']}" if resource.get("template") else "",
        f"on bridge {resource['bridge']}" if resource.get("bridge") else "",
    ]
    return f"{resource['kind']} {name}".rstrip() + ": " + ", ".join(filter(None, facts))


@click.command()
@click.argument("file", type=FILE, required=False)
@click.option("--name", metavar="NAME", help="Name of a VM made without a file.")
@click.option("--image", metavar="IMAGE", help="What it boots.", shell_complete=complete_images)
@click.option("--cpus", type=int, metavar="N", help="Number of vCPUs; 1 when left out.")
@click.option("--memory", metavar="SIZE", help="Such as 512MiB or 2GiB.")
@click.option("--disk-size", metavar="SIZE", help="Size of its disk.")
@click.option("--start", is_flag=True, help="Start it at once.")
@output_option
@click.pass_obj
def create(app: App, /, file: str | None, start: bool, **words: Any) -> None:
    """Make a VM from a spec, or from a name and an image.

    FILE is YAML or JSON, `-` is standard input.
    """
    if file and any(value is not None for value in words.values()):
        raise click.UsageError(
            "Give either a FILE or --name and --image; in a FILE, all of it is in the spec."
        )
    if file:
        operation = app.agent.vms.create(read_spec(file), start=start)
    elif words["name"] and words["image"]:
        operation = app.agent.vms.quick_create({**words, "start": start})
    else:
        raise click.UsageError("Give a FILE, or both --name and --image.")
    made = app.finish(operation)
    app.show(made, lambda vm: after_action(vm, seconds_of(operation)) + first_login(app, vm))
