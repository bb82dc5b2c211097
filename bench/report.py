"""Results as files: one JSON for each bench and day, and a Markdown table of the newest ones."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.stats import Outcome, show
from roost.host.facts import has_systemd

Json = dict[str, Any]

RESULTS = Path(__file__).parent / "results"


def describe_host(accelerator: str) -> Json:
    """What a figure depends on."""
    info = Path("/proc/cpuinfo").read_text()
    models = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} × {models[0] if models else platform.machine()}",
        "memory_gib": round(pages / (1 << 30), 1),
        "kernel": platform.release(),
        "system": _os_name(),
        "systemd": has_systemd(),
        "qemu": _first_line("qemu-system-x86_64", "--version"),
        "accelerator": accelerator,
        "python": platform.python_version(),
        "commit": _first_line("git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"),
    }


def write(outcome: Outcome, host: Json, command: str, load: tuple[float, float, float]) -> Path:
    """The bench's JSON; a second one on the same day replaces the first."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y-%m-%d')}-{outcome.name}.json"
    document = {
        "command": command,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": host,
        "load_before": [round(value, 2) for value in load],
        **outcome.to_json(),
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return path


def write_table() -> None:
    """`results/README.md`, from the newest result of each bench."""
    newest: dict[str, Json] = {}
    for path in sorted(RESULTS.glob("*.json")):
        document = json.loads(path.read_text())
        newest[document["name"]] = document
    text = "\n".join(_page(list(newest.values())))
    (RESULTS / "README.md").write_text(text + "\n")


def table(outcome: Json) -> list[str]:
    """One bench as Markdown: targets first, then what was measured beside."""
    lines = [f"## {outcome['title']}", ""]
    if outcome["not_run"]:
        lines += [f"**Not run**: {outcome['not_run']}", ""]
    if outcome["targets"]:
        lines += ["| | target | median | middle half | n | |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {t['what']} | {t['target']} | **{_value(t)}** | {_spread(t)} | {t['n']} |"
            f" {'met' if t['met'] else '**missed**'} |"
            for t in outcome["targets"]
        ]
        lines.append("")
    if outcome["figures"]:
        lines += ["| measured beside | median | middle half | n |", "|---|---|---|---|"]
        lines += [f"| {f['what']} | {_value(f)} | {_spread(f)} | {f['n']} |" for f in outcome["figures"]]
        lines.append("")
    return lines + [line for note in outcome["notes"] for line in (note, "")]


def _page(outcomes: list[Json]) -> list[str]:
    lines = [
        "# Results",
        "",
        "Written by `./dev bench`; the JSON beside this page holds every single value. Benches that compare measure both",
        "sides in turn, and the ratio of each pair is taken before the median: the machines are noisy.",
        "",
    ]
    for outcome in outcomes:
        lines += table(outcome)
        host = outcome["host"]
        lines += [
            (
                f"*`{outcome['command']}`, {outcome['time'][:16].replace('T', ' ')} UTC, commit {host['commit']};"
                f" {host['qemu']}, {host['accelerator']}; {host['cpu']}, {host['memory_gib']} GiB, {host['system']},"
                f" Linux {host['kernel']}; load before {outcome['load_before'][0]}.*"
            ),
            "",
        ]
    return lines


def _value(series: Json) -> str:
    return show(series["median"], series["unit"])


def _spread(series: Json) -> str:
    if series["n"] == 1:
        return ""
    low, high = series["quartiles"]
    return f"{show(low, series['unit'])} – {show(high, series['unit'])}"


def _os_name() -> str:
    release = Path("/etc/os-release")
    for line in release.read_text().splitlines() if release.exists() else ():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip('"')
    return platform.system()


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return f"no {command[0]}"
    return done.stdout.partition("\n")[0]
