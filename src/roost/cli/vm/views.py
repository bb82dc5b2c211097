"""A VM in words: rows of lists, the page of `show`, the sentence after an action. Pure.

Callers: the commands of `roost vm` and `roost up`. Input is `api.types.VmView` as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable

from roost.cli.output import Json, ago, duration, moment, sections, table
from roost.common.units import format_size, human_size


def state_of(vm: Json) -> str:
    """The state, with what is going on."""
    transition = vm["transition"]
    return f"{vm['state']} ({transition['operation']})" if transition else str(vm["state"])


def vm_table(vms: Iterable[Json]) -> str:
    """One line for each VM; the last column has what needs attention."""
    rows = [
        (
            vm["name"],
            state_of(vm),
            _cpus(vm),
            _memory(vm),
            f"{vm['hypervisor']}/{vm['accelerator']}",
            ago(vm["since"]),
            _note(vm),
        )
        for vm in vms
    ]
    return table(("NAME", "STATE", "CPUS", "MEMORY", "HYPERVISOR", "SINCE", ""), rows)


def _cpus(vm: Json) -> str:
    return f"{vm['cpus']}{_next(vm['next_cpus'])}"


def _memory(vm: Json) -> str:
    wanted = vm["next_memory"]
    return format_size(vm["memory"]) + _next(wanted and format_size(wanted))


def _next(value: object) -> str:
    """What a figure becomes, where the spec has another one."""
    return f" ({value} after a restart)" if value else ""


def _note(vm: Json) -> str:
    return str(vm["reason"]) or ("restart due" if vm["restart_due"] else "")


def after_action(vm: Json, seconds: float | None) -> str:
    """`web is running (2.3 s)`, with what is worth knowing of a stop or a sleep."""
    text = f"{vm['name']} is {vm['state']}"
    if seconds is not None:
        text += f" ({duration(seconds)})"
    if vm["state"] == "sleeping" and vm["sleep"]:
        text += f", {_durable(vm['sleep'])}"
    if vm["state"] == "deleted" and vm["kept"]:
        text += f"; its disks are in {vm['kept']}"
    if vm["state"] == "stopped" and vm["last_exit"]:
        text += f": {vm['last_exit']}"
    return text


def _durable(sleep: Json) -> str:
    durable_ms = sleep["durable_ms"]
    return "not yet durable" if durable_ms is None else f"durable after {duration(durable_ms / 1000)}"


def vm_page(vm: Json) -> str:
    """Everything that the API tells, in sections."""
    return sections(
        [
            (vm["name"], _identity(vm)),
            ("Machine", _machine(vm)),
            ("Disks", ((disk["name"], _disk(disk)) for disk in vm["disks"])),
            ("Network", [*((f"nic {nic['index']}", _nic(nic)) for nic in vm["nics"]), *_addresses(vm)]),
            ("Sleep and wake", _sleep(vm)),
        ]
    )


def _identity(vm: Json) -> list[tuple[str, object]]:
    return [
        ("state", state_of(vm)),
        ("reason", vm["reason"]),
        ("since", moment(vm["since"])),
        ("wanted", vm["desired"] if vm["desired"] != vm["state"] else ""),
        ("restart due", "the spec has changes that wait for the next start" if vm["restart_due"] else ""),
        ("guest agent", {True: "answers", False: "does not answer", None: ""}[vm["guest_agent"]]),
        ("created", moment(vm["created"])),
        ("cloned from", vm["parent"]),
        ("labels", ", ".join(f"{key}={value}" for key, value in vm["labels"].items())),
        ("autostart", "yes" if vm["autostart"] else "no"),
        ("last exit", vm["last_exit"]),
        ("crashes", vm["restarts"] or ""),
        ("id", vm["id"]),
    ]


def _machine(vm: Json) -> list[tuple[str, object]]:
    return [
        ("hypervisor", f"{vm['hypervisor']}, {vm['accelerator']}"),
        ("machine", vm["machine"]),
        ("cpus", f"{vm['cpus']} × {vm['cpu']}{_next(vm['next_cpus'])}"),
        ("memory", f"{_memory(vm)} on {vm['memory_backing']}"),
        ("image", vm["image"]),
        ("process", f"{vm['pid']}, user id {vm['uid']}" if vm["pid"] and vm["uid"] else vm["pid"]),
    ]


def _disk(disk: Json) -> str:
    kept = "" if disk["persistent"] else ", made anew at each start"
    used = f"{human_size(disk['used'])} used"
    return f"{human_size(disk['size'])} {disk['format']} on {disk['bus']}, {used}{kept}: {disk['path']}"


def _nic(nic: Json) -> str:
    forwards = f", forwards {', '.join(nic['forwards'])}" if nic["forwards"] else ""
    return f"{nic['mac']} {nic['model']} on {nic['attached_to']}{forwards}"


def _addresses(vm: Json) -> Iterable[tuple[str, object]]:
    for address in vm["addresses"]:
        where = f"{address['interface']}, " if address["interface"] else ""
        yield "address", f"{address['address']} ({where}from {address['source']})"


def _sleep(vm: Json) -> list[tuple[str, object]]:
    sleep, wake = vm["sleep"], vm["wake"]
    pairs: list[tuple[str, object]] = []
    if sleep:
        slow = ", memory copied" if sleep["slow"] else ""
        size = human_size(sleep["state_bytes"])
        pairs.append(
            ("last sleep", f"{duration(sleep['paused_ms'] / 1000)}, {_durable(sleep)}, state {size}{slow}")
        )
    if wake:
        how = f"clock {wake['clock']}, random numbers {wake['reseeded']}"
        pairs.append(("last wake", f"{duration(wake['running_ms'] / 1000)}, {how}"))
    return pairs
