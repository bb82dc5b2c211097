"""The ladder that tests of real VMs climb: `tiny` → `house` → `stopped_vm` → `running_vm` → `ready_vm` → `sleeping_vm`.

A house is one Roost: a home, its agent as a process of its own, and a client (see `agent.support`). `house` is shared by
the tests of a module, so that each costs only its VMs; a test that kills the agent, damages files or fills the disk takes
`own_house`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import netns

from roost.common.files import write_json
from tests.host.agent.support import Enclave, House, new_root
from tests.images import built_image

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The directory of the image `tiny`: a kernel and an initrd with a guest agent, up in 3 s without KVM."""
    return _built("tiny")


@pytest.fixture(scope="session")
def debian() -> Path:
    """The directory of the image `debian`: a disk with systemd and cloud-init, up in a minute without KVM."""
    return _built("debian")


def _built(recipe: str) -> Path:
    """Only read it; `furnished` puts it into a home."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86_64")
    return built_image(recipe)


def furnished(root: Path, image: Path, name: str = "tiny", enclave: Enclave | None = None) -> House:
    """A house that has one image."""
    furnish(root, image, name)
    return House(root, {"image": name}, enclave)


def furnish(root: Path, image: Path, name: str) -> None:
    """Put an image into a home, sharing its blocks with the cache where both are on one filesystem."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    images = root / "images"
    shutil.copytree(image, images / image.name, copy_function=link)
    write_json(images / "names.json", {name: image.name})


@pytest.fixture(scope="module")
def house(tiny: Path) -> Iterator[House]:
    """A house whose agent serves, shared by the module: leave it serving, and leave no VM of a fixed name behind."""
    with new_root() as root:
        house = furnished(root, tiny)
        house.serve()
        yield house
        house.close()


@pytest.fixture
def own_house(tiny: Path) -> Iterator[House]:
    """A house for one test, whose agent does not serve yet: `own_house.serve()`."""
    with new_root() as root:
        house = furnished(root, tiny)
        yield house
        house.close()


@pytest.fixture
def name() -> str:
    """A name that no other test's VM has."""
    return f"vm{next(_numbers)}"


@pytest.fixture
def stopped_vm(house: House, name: str) -> Iterator[str]:
    """A VM with one disk, `data`, created and never started. The caller starts it; it is deleted with its disks."""
    house.create(name, disks=[{"name": "data", "size": "64MiB"}])
    yield name
    if name in house.names():
        house.delete(name)


@pytest.fixture
def running_vm(house: House, stopped_vm: str) -> str:
    """Its vCPUs run; the caller waits for whatever in the guest it needs."""
    house.start(stopped_vm)
    return stopped_vm


@pytest.fixture
def ready_vm(house: House, running_vm: str) -> str:
    """Its guest agent answers, and `/tmp/nonce` holds what only its memory knows."""
    house.wait(running_vm, "ready")
    house.sh(running_vm, f"echo nonce-of-{running_vm} > /tmp/nonce")
    return running_vm


@pytest.fixture
def sleeping_vm(house: House, ready_vm: str) -> str:
    """Asleep, durably; `/tmp/nonce` is in its saved memory. The caller wakes it."""
    house.sleep(ready_vm)
    return ready_vm


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace of the test's own: the test, and what it starts from here on, is in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    name = f"roost-test-{os.getpid()}-{next(_numbers)}"
    netns.create(name)
    netns.pushns(name)
    yield name
    netns.popns()
    netns.remove(name)


@pytest.fixture
def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
