"""Hosts that are VMs. `lab` makes nodes for the tests of a module; `host` is one of them on which Roost is installed.

A node that is left damaged damages the tests after it: a test that breaks its host for good takes a node of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from roost.errors import ToolMissing
from tests.lab.image import NodeImage, node_image
from tests.lab.lab import Lab, write_parcel
from tests.lab.node import CommandFailed, Node

_labs: list[Lab] = []


@pytest.fixture(scope="session")
def image() -> NodeImage:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86_64")
    try:
        return node_image()
    except ToolMissing as error:
        pytest.skip(f"{error.message}; {error.hint}")


@pytest.fixture(scope="session")
def parcel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab") / "parcel.tar"
    write_parcel(path)
    return path


@pytest.fixture(scope="module")
def lab(image: NodeImage, parcel: Path) -> Iterator[Lab]:
    """No node yet: `lab.node()`, `lab.nodes(2)`. All are gone at the module's end."""
    with Lab(image, parcel) as made:
        _labs.append(made)
        yield made
        _labs.remove(made)


@pytest.fixture(scope="module")
def bare_node(lab: Lab) -> Node:
    """A node with a KVM that runs guests; skipped where the emulated one does not. Nothing of Roost runs on it."""
    node = lab.node()
    try:
        node.sh(_KVM_RUNS)
    except CommandFailed as error:
        pytest.skip(f"needs nested KVM, which this machine's QEMU does not emulate well enough: {error}")
    return node


_KVM_RUNS = """
cd /var/lib/roost/images/*/
timeout 60 qemu-system-x86_64 -accel kvm -machine q35 -m 160 -nodefaults -no-reboot -display none -pidfile /run/pid \\
    -kernel kernel -initrd initrd -append "console=ttyS0" -serial stdio </dev/null |
    { seen=0; grep -m 1 "roost-tiny ready" || seen=1; kill "$(cat /run/pid)"; exit $seen; }
"""
"""Without Roost's own verdict, which is under test."""


@pytest.fixture(scope="module")
def host(bare_node: Node) -> Node:
    """A node that has been set up as the guide says: `roost host install`. Leave the agent running."""
    bare_node.roost("host", "install")
    return bare_node


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the end of each node's journal."""
    report = yield
    if report.failed:
        for node in (node for lab in _labs for node in lab.nodes_on):
            report.sections.append((f"journal of {node.name}", node.report()))
    return report
