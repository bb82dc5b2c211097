"""The golden plans: `tests/data/plans/<case>.yaml` is a spec, `<case>.json` what the qemu backend plans from it on `HOST`.

In the files, each flag of the command line stands on a line with its value, and JSON values are JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from roost.common.paths import Home
from roost.errors import Unsupported
from roost.host.firmware import choose_firmware
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import plan as planning
from roost.model.documents import parse_spec
from roost.model.host import HostFacts
from roost.model.plan import Plan
from tests.unit.vms import HOME, HOST, RAM_DIR, vm_of

PLANS = Path(__file__).parents[1] / "data" / "plans"
CASES = sorted(path.stem for path in PLANS.glob("*.yaml"))


def plan_of(vm: Vm, host: HostFacts = HOST, memory: Path | None = RAM_DIR) -> Plan:
    """What the backend plans, with the firmware that it would choose."""
    flavour, firmware = planning.needs_firmware(vm), None
    if flavour is not None:
        try:
            firmware = choose_firmware(host.firmware, flavour, vm.record.machine)
        except Unsupported:
            firmware = None
    return planning.plan(vm, host, firmware, memory)


def case_vm(case: str, home: Home = HOME, host: HostFacts = HOST) -> Vm:
    path = PLANS / f"{case}.yaml"
    return vm_of(parse_spec(path.read_text(encoding="utf-8"), source=path.name), home=home, host=host)


def render(plan: Plan) -> str:
    """A plan as a file to be reviewed by eye."""
    document = plan.model_dump(mode="json")
    lists = {key: document.pop(key) for key in ("resources", "argv")}
    lists["argv"] = _by_flag(lists["argv"])
    text = json.dumps(document, indent=2, ensure_ascii=False).removesuffix("\n}")
    for key, lines in lists.items():
        rows = ",\n".join(f"    {json.dumps(line, ensure_ascii=False)}" for line in lines)
        text += f',\n  "{key}": ' + (f"[\n{rows}\n  ]" if rows else "[]")
    return text + "\n}\n"


def argv_of(text: str) -> tuple[str, ...]:
    """The command line in such a file, as it was."""
    return tuple(
        word if isinstance(word, str) else json.dumps(word, separators=(",", ":"))
        for line in json.loads(text)["argv"]
        for word in line
    )


def _by_flag(argv: list[str]) -> list[list[Any]]:
    lines: list[list[Any]] = []
    for word in argv:
        if word.startswith("-") or not lines:
            lines.append([word])
        else:
            is_json = word.startswith("{") and lines[-1][0] in ("-blockdev", "-device", "-netdev", "-object")
            lines[-1].append(json.loads(word) if is_json else word)
    return lines
