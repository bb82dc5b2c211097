"""What Prometheus reads from this agent at /metrics.

Callers: the server builds one `Metrics`; the API counts its requests in it, the operations registry its operations. VMs
are looked at only while somebody scrapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, StateSetMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from roost.api.types import Operation, VmView
from roost.model.vm import VmState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The agent's own registry.

    Args:
        vms: all VMs, as they are now.
    """

    def __init__(self, vms: Callable[[], Iterable[VmView]]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(_Vms(vms))
        self._requests = Counter(
            "roost_http_requests_total",
            "Requests answered, by route template and status",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._operations = Histogram(
            "roost_operation_seconds",
            "How long operations took, by kind and outcome",
            ("kind", "state"),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def request_answered(self, method: str, route: str, status: int) -> None:
        self._requests.labels(method, route, str(status)).inc()

    def operation_ended(self, operation: Operation, seconds: float) -> None:
        self._operations.labels(operation.kind, operation.state).observe(seconds)

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format, `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _Vms(Collector):
    """One set of series for each VM, made at the moment of the scrape: a deleted VM leaves none behind."""

    def __init__(self, vms: Callable[[], Iterable[VmView]]) -> None:
        self._vms = vms

    def collect(self) -> Iterator[Metric]:
        views = list(self._vms())
        yield _count_by_state(views)
        states = StateSetMetricFamily("roost_vm_state", "The VM's state", labels=("vm",))
        for view in views:
            states.add_metric((view.name,), {state: state == view.state for state in get_args(VmState)})
        yield states
        yield _gauge("roost_vm_memory_bytes", "Guest RAM", [(v, v.memory) for v in views])
        yield _gauge("roost_vm_cpus", "vCPUs", [(v, v.cpus) for v in views])
        yield _gauge("roost_vm_restarts", "Crashes in a row", [(v, v.restarts) for v in views])
        slept = [(v, v.sleep.paused_ms / 1000) for v in views if v.sleep]
        yield _gauge(
            "roost_vm_sleep_seconds", "How long the last sleep took until the state was saved", slept
        )
        woke = [(v, v.wake.running_ms / 1000) for v in views if v.wake]
        yield _gauge("roost_vm_wake_seconds", "How long the last wake took until the vCPUs ran", woke)
        yield from _processes(views)


def _count_by_state(views: list[VmView]) -> Metric:
    family = GaugeMetricFamily("roost_vms", "VMs by state", labels=("state",))
    for state in get_args(VmState):
        family.add_metric((state,), sum(view.state == state for view in views))
    return family


def _gauge(name: str, text: str, values: list[tuple[VmView, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("vm",))
    for view, value in values:
        family.add_metric((view.name,), value)
    return family


def _processes(views: list[VmView]) -> Iterator[Metric]:
    """Source: proc(5): utime and stime are fields 14 and 15 of `stat`, resident pages the second of `statm`."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGESIZE")
    cpu = CounterMetricFamily("roost_vm_cpu_seconds", "CPU time of the VM's process", labels=("vm",))
    resident = GaugeMetricFamily(
        "roost_vm_resident_bytes", "Resident memory of the VM's process", labels=("vm",)
    )
    for view in views:
        if view.pid is None:
            continue
        try:
            stat = Path(f"/proc/{view.pid}/stat").read_text().rpartition(")")[2].split()
            pages = Path(f"/proc/{view.pid}/statm").read_text().split()
        except OSError:  # it ended just now
            continue
        cpu.add_metric((view.name,), (int(stat[11]) + int(stat[12])) / tick)
        resident.add_metric((view.name,), int(pages[1]) * page)
    yield cpu
    yield resident
