from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roost.errors import HostError, ToolMissing
from roost.host import commands, tpm
from roost.host.processes import is_alive, kill, wait_gone
from roost.host.tpm import TpmProcess
from roost.model.plan import TpmResource
from tests.host.resources.conftest import needs_root

pytestmark = pytest.mark.skipif(shutil.which("swtpm") is None, reason="needs swtpm")
UID = 700_001


class Place:
    """Where one VM's TPM lives: state below a directory of root's, the socket in one of the VM's own."""

    def __init__(self, root: Path, uid: int | None) -> None:
        self.state, self.run, self.log = root / "tpm", root / "run", root / "tpm.log"
        self.run.mkdir(mode=0o700)
        if uid is not None:
            os.chown(self.run, uid, uid)
        resource = TpmResource(state=str(self.state), socket=str(self.run / "tpm.sock"))
        self.tpm = TpmProcess("abc", resource, uid, self.log, systemd=False)


@pytest.fixture
async def place(open_path: Path) -> AsyncIterator[Place]:
    made = Place(open_path, UID if os.geteuid() == 0 else None)
    yield made
    await made.tpm.release()


def answers(path: Path) -> bool:
    """Ask for its capabilities over the control channel. Source: swtpm, include/swtpm/tpm_ioctl.h."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.send(struct.pack(">I", 1))
        answer = client.recv(64)
        return len(answer) >= 4 and answer != bytes(len(answer))


async def test_it_is_manufactured_started_and_ended(place: Place) -> None:
    handle = await place.tpm.ensure()
    assert await place.tpm.ensure() == handle
    assert await asyncio.to_thread(answers, place.run / "tpm.sock")
    assert place.tpm.find() == handle
    assert [path.name for path in place.state.glob("*.permall")] == ["tpm2-00.permall"]
    assert not list(place.state.parent.glob(".*.new"))
    assert (place.run / "tpm.sock").stat().st_mode & 0o777 == 0o600
    await place.tpm.release()
    assert not is_alive(handle)
    assert not (place.run / "tpm.sock").exists()
    assert place.tpm.find() is None
    await place.tpm.release()


async def test_its_state_is_kept_from_start_to_start(place: Place) -> None:
    await place.tpm.ensure()
    await place.tpm.release()
    state = (place.state / "tpm2-00.permall").read_bytes()
    await place.tpm.ensure()
    assert (place.state / "tpm2-00.permall").read_bytes() == state


async def test_one_that_was_killed_is_started_again(place: Place) -> None:
    handle = await place.tpm.ensure()
    await kill(handle)
    assert (place.run / "tpm.sock").exists()
    again = await place.tpm.ensure()
    assert again != handle
    assert await asyncio.to_thread(answers, place.run / "tpm.sock")


@needs_root
async def test_it_runs_and_writes_as_its_vm(place: Place) -> None:
    handle = await place.tpm.ensure()
    assert Path(f"/proc/{handle.pid}").stat().st_uid == UID
    for path in (place.state, place.state / "tpm2-00.permall", place.run / "tpm.sock"):
        assert path.stat().st_uid == UID
        assert path.stat().st_mode & 0o007 == 0
    assert place.log.stat().st_uid == 0


async def test_it_ends_when_its_vm_has_ended(place: Place) -> None:
    handle = await place.tpm.ensure()
    qemu = await asyncio.create_subprocess_exec(
        *("qemu-system-x86_64", "-S", "-accel", "tcg", "-machine", "q35", "-nodefaults", "-display", "none"),
        *("-chardev", f"socket,id=tpm,path={place.run}/tpm.sock", "-tpmdev", "emulator,id=tpm0,chardev=tpm"),
        *("-device", "tpm-crb,tpmdev=tpm0", "-m", "16", "-qmp", "stdio"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert qemu.stdin is not None
    assert qemu.stdout is not None
    qemu.stdin.write(b'{"execute": "qmp_capabilities"}')
    async with asyncio.timeout(30):
        await qemu.stdout.readline()
        assert b"return" in await qemu.stdout.readline()
    assert is_alive(handle)
    qemu.kill()
    await qemu.wait()
    assert await wait_gone(handle, 10)


async def test_a_tpm_that_cannot_start_says_why(place: Place) -> None:
    shutil.rmtree(place.run)
    with pytest.raises(HostError, match=r"swtpm did not start: .*UnixIO socket"):
        await place.tpm.ensure()
    place.run.mkdir()


async def test_without_swtpm_setup_the_tpm_is_blank(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpm, "find_tool", lambda name: None)
    await place.tpm.ensure()
    assert await asyncio.to_thread(answers, place.run / "tpm.sock")


async def test_without_swtpm_the_error_says_how_to_get_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "find_tool", lambda name: None)
    monkeypatch.setattr(tpm, "find_tool", lambda name: None)
    with pytest.raises(ToolMissing, match="swtpm"):
        await place.tpm.ensure()


async def test_deleting_removes_all_of_it(place: Place) -> None:
    handle = await place.tpm.ensure()
    await place.tpm.delete()
    assert not is_alive(handle)
    assert not place.state.exists()
    await place.tpm.delete()
