"""A TPM 2.0 of a VM's own: one swtpm process, and the directory that holds the TPM's state.

Callers: hypervisors, around start and wake. It must not know what a guest seals in it.

swtpm runs under the VM's uid, outlives the agent, and ends by itself when the VMM has gone (`--terminate`); the state
directory stays. Without it the guest's sealed keys are lost, so it is part of every copy of the VM.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from roost.common.steps import reached
from roost.common.waiting import poll_until
from roost.errors import HostError, StorageError
from roost.host.commands import find_tool, run
from roost.host.launcher import Launch, launch, log_tail
from roost.host.processes import ProcessHandle, handle_of, is_alive, terminate
from roost.host.sandbox import make_directory
from roost.model.plan import TpmResource

_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 10.0
_SETUP_TIMEOUT_S = 120.0


_found: dict[Path, ProcessHandle] = {}
"""By their sockets: looking through all processes, for each of many VMs, would take as long as it takes to be due again."""


class TpmProcess:
    """The TPM of one VM."""

    def __init__(self, vm_id: str, tpm: TpmResource, uid: int | None, log: Path, systemd: bool) -> None:
        self._name = f"roost-tpm-{vm_id}"
        self._state = Path(tpm.state).absolute()  # swtpm refuses a relative one with an error 9
        self._socket = Path(tpm.socket)
        self._uid = uid
        self._log = log
        self._systemd = systemd

    async def ensure(self) -> ProcessHandle:
        """Have it listen on its socket: manufactured if it is new, started if it does not run.

        Raises:
            ToolMissing: swtpm is not installed.
            HostError: it does not start; the message has its words.
            StorageError: its state could not be made.
        """
        if (running := self.find()) is not None:
            return running
        await self._manufacture()
        self._socket.unlink(missing_ok=True)
        handle = await launch(
            Launch(
                name=self._name,
                argv=(
                    *("swtpm", "socket", "--tpm2", "--terminate"),
                    *("--tpmstate", f"dir={self._state},mode=0600"),
                    *("--ctrl", f"type=unixio,path={self._socket},mode=0600"),
                ),
                log=self._log,
                uid=self._uid,
                writable=(self._state, self._socket.parent),
            ),
            systemd=self._systemd,
        )
        await self._wait_ready(handle)
        reached("tpm:started")
        return handle

    async def release(self) -> None:
        """End it, and remove its socket; the state stays. Only after the VMM has ended."""
        if (running := self.find()) is not None:
            await terminate(running, _END_TIMEOUT_S)
        _found.pop(self._socket, None)
        self._socket.unlink(missing_ok=True)

    async def delete(self) -> None:
        """End it and throw its state away: what the guest sealed is lost for ever."""
        await self.release()
        await asyncio.to_thread(shutil.rmtree, self._state, ignore_errors=True)

    def find(self) -> ProcessHandle | None:
        """Its process, known by its uid and the socket on its command line: no pid file can be forged or lost."""
        known = _found.get(self._socket)
        if known is not None and is_alive(known):
            return known
        found = self._search()
        if found is not None:
            _found[self._socket] = found
        else:
            _found.pop(self._socket, None)
        return found

    def _search(self) -> ProcessHandle | None:
        wanted = f"path={self._socket},".encode()
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                words = (process / "cmdline").read_bytes()
                if wanted in words and b"swtpm" in words and self._is_ours(process):
                    return handle_of(int(process.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return None

    def _is_ours(self, process: Path) -> bool:
        return self._uid is None or process.stat().st_uid == self._uid

    async def _manufacture(self) -> None:
        """Endorsement keys, as a factory makes them; where swtpm_setup is missing, swtpm makes a blank TPM by itself.

        Made under another name and then renamed, so that a crash leaves no half-made TPM.
        """
        make_directory(self._state, self._uid)
        if any(self._state.glob("*.permall")) or find_tool("swtpm_setup") is None:
            return
        new = self._state.with_name(f".{self._state.name}.new")
        await asyncio.to_thread(shutil.rmtree, new, ignore_errors=True)
        make_directory(new, self._uid)
        setup = [
            "swtpm_setup",
            "--tpm2",
            "--tpmstate",
            str(new),
            "--createek",
            "--decryption",
            "--lock-nvram",
        ]
        try:
            await run(setup, timeout_s=_SETUP_TIMEOUT_S, uid=self._uid)
            shutil.rmtree(self._state)
            new.rename(self._state)
        except OSError as error:
            raise StorageError(f"cannot make the TPM's state {self._state}: {error.strerror}") from error
        finally:
            await asyncio.to_thread(shutil.rmtree, new, ignore_errors=True)
        reached("tpm:manufactured")

    async def _wait_ready(self, handle: ProcessHandle) -> None:
        async def settled() -> bool:
            return self._is_listening() or not is_alive(handle)

        await poll_until(settled, timeout_s=_START_TIMEOUT_S, interval_s=0.002)
        if not is_alive(handle) or not self._is_listening():
            await terminate(handle, _END_TIMEOUT_S)
            words = log_tail(self._log) or "it said nothing"
            raise HostError(f"swtpm did not start: {words}", hint=f"see {self._log}")

    def _is_listening(self) -> bool:
        """Asked of the kernel: a connection of ours would be taken for the VMM's.

        Source: Linux net/unix/af_unix.c, unix_seq_show: flags have __SO_ACCEPTCON once it listens.
        """
        for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[7] == str(self._socket) and int(fields[3], 16) & 0x10000:
                return True
        return False
