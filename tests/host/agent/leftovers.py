"""What is on the host and belongs to no VM, or to a part of a VM that should be gone: nothing, unless something leaked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roost.common.paths import Home
from roost.host.qcow2 import backing_chain

_ALWAYS = {"vm.json", "spec.json", "applied.json", "status.json", "disks", "snapshots", "nvram.fd", "tpm"}
_ALWAYS |= {"serial.log", "serial.log.1", "vmm.log", "tpm.log", "cidata.iso", "config.iso"}


def leftovers(
    home: Home,
    vms: list[dict[str, Any]],
    processes: dict[int, list[str]],
    in_memory: Path,
    taps: list[str],
) -> list[str]:
    """Everything that should not be there, each as a line.

    Args:
        vms: the API's view of all VMs, none of them busy.
        processes: command lines that name the home, by pid.
        in_memory: where VMs have RAM files and secrets on tmpfs.
        taps: names of the taps where only this home makes some.
    """
    alive = {vm["id"] for vm in vms if vm["pid"]}
    known = {vm["id"]: vm for vm in vms}
    return [
        *_processes(alive, processes),
        *_state(home, known),
        *_sockets(home, known, alive),
        *_memory(in_memory, known, alive),
        *_layers(home),
        *_taps(vms, taps),
    ]


def _processes(alive: set[str], processes: dict[int, list[str]]) -> Iterator[str]:
    for pid, argv in processes.items():
        program = Path(argv[0]).name
        if program.startswith(("qemu", "swtpm")) and not any(
            vm_id in word for vm_id in alive for word in argv
        ):
            yield f"process {pid}, {program}"


def _taps(vms: list[dict[str, Any]], taps: list[str]) -> Iterator[str]:
    wanted = sum(len(vm["nics"]) for vm in vms if vm["pid"])
    if len(taps) > wanted:
        yield f"taps {', '.join(taps)} for {wanted} NICs"


def _state(home: Home, known: dict[str, dict[str, Any]]) -> Iterator[str]:
    for directory in home.vms.iterdir():
        vm = known.get(directory.name)
        if vm is None:
            yield f"the state of nobody, {directory.name}"
            continue
        kept = _ALWAYS | _of_state(vm)
        for path in directory.iterdir():
            if path.name not in kept:
                yield f"{vm['name']}: {path.name}"
        hidden = [*directory.glob("snapshots/.*"), *([] if vm["pid"] else directory.glob("disks/.*"))]
        for path in hidden:
            yield f"{vm['name']}: {path.relative_to(directory)}"


def _of_state(vm: dict[str, Any]) -> set[str]:
    """What only a VM that runs, or one that sleeps, has in its directory."""
    asleep, backing = vm["state"] == "sleeping", vm["memory_backing"]
    names = {"state", "state.json"} if asleep else {"pid"} if vm["pid"] else set()
    in_file = backing != "anonymous" and (asleep or (vm["pid"] and backing == "disk"))
    return names | ({"ram"} if in_file else set())


def _sockets(home: Home, known: dict[str, dict[str, Any]], alive: set[str]) -> Iterator[str]:
    for directory in (home.run / "vms").iterdir():
        if directory.name not in known:
            yield f"the sockets of nobody, {directory.name}"
        elif directory.name not in alive:
            for path in directory.iterdir():
                if path.name != "console.sock":
                    yield f"{known[directory.name]['name']}: {path.name}"


def _memory(in_memory: Path, known: dict[str, dict[str, Any]], alive: set[str]) -> Iterator[str]:
    for directory in in_memory.iterdir() if in_memory.exists() else ():
        if directory.name in alive:
            continue
        vm = known.get(directory.name)
        if vm is None:
            yield f"the memory of nobody, {directory}"
            continue
        for path in directory.iterdir():
            if vm["memory_backing"] != "tmpfs" or path.name != "ram" or vm["state"] != "warm":
                yield f"{vm['name']}: {path} in memory"


def _layers(home: Home) -> Iterator[str]:
    heads = [*home.vms.glob("*/disks/*.qcow2"), *home.kept.glob("*/*.qcow2")]
    for document in home.vms.glob("*/snapshots/*/snapshot.json"):
        heads += [Path(path) for path in json.loads(document.read_text())["disks"].values()]
    needed = {layer for head in heads if head.suffix == ".qcow2" for layer in (head, *backing_chain(head))}
    for layer in home.layers.glob("*.qcow2"):
        if layer not in needed:
            yield f"layer {layer.name}"
