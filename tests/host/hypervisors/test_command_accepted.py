"""QEMU takes the command line of every golden plan, and of any other: it comes up, and waits for its vCPUs to be let go.

Paths are moved below a directory of the test, where the files that a plan names are really made; ports of the host are
left to QEMU. What this host lacks (a TPM, firmware, root for a tap, the PCI devices) skips the case or is left out.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings

from roost.common.waiting import poll_until
from roost.model.spec import VmSpec
from tests.unit.plans import CASES, PLANS, argv_of, plan_of, render
from tests.unit.vms import spec_documents, vm_of

ACCEPTED = [case for case in CASES if json.loads((PLANS / f"{case}.json").read_text())["accepted"]]
MOVED = ("/var/lib/roost", "/run/roost", "/dev/shm/roost-web", "/srv/", "/boot/")
FULL = os.environ.get("ROOST_TEST_TIER") == "full"
QEMU = shutil.which("qemu-system-x86_64")


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="roost-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def machines() -> str:
    if QEMU is None:
        pytest.skip("needs qemu-system-x86_64")
    return subprocess.run([QEMU, "-machine", "help"], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("case", ACCEPTED)
async def test_qemu_takes_the_command_line_of_a_plan(case: str, root: Path, machines: str) -> None:
    await try_out((PLANS / f"{case}.json").read_text(encoding="utf-8"), root, machines)


@settings(max_examples=400 if FULL else 40, phases=[Phase.explicit, Phase.generate])
@given(document=spec_documents())
def test_qemu_takes_the_command_line_of_any_accepted_plan(document: dict[str, Any], machines: str) -> None:
    plan = plan_of(vm_of(VmSpec.model_validate(on_this_host(document))))
    if plan.accepted and not {resource.kind for resource in plan.resources} & {"tap", "tpm", "nvram"}:
        with tempfile.TemporaryDirectory(prefix="roost-") as directory:
            asyncio.run(try_out(render(plan), Path(directory), machines))


def on_this_host(document: dict[str, Any]) -> dict[str, Any]:
    """A spec without what only the planner knows of: a made-up CPU, more vCPUs and memory than there are."""
    memory = document.get("memory", {}) | {"size": "64MiB"}
    document = {**document, "memory": memory, "cpus": 1, "cpu": None, "accelerator": "tcg"}
    for entry in (document, *document.get("disks", []), *document.get("cdroms", [])):
        entry |= {
            key: f"/srv/{entry[key].replace('/', '|')}"
            for key in ("kernel", "initrd", "path")
            if entry.get(key)
        }
    return document


async def try_out(text: str, root: Path, machines: str) -> None:
    """Have the real QEMU come up with the command line of a golden file."""
    for place in MOVED:
        text = text.replace(place, f"{root}{place}")
    plan = json.loads(text)
    argv = [str(QEMU), *here(argv_of(text)[1:])]
    skip_what_is_missing(plan, argv, machines)
    make_files(plan, argv)
    async with AsyncExitStack() as stack:
        for resource in plan["resources"]:
            if resource["kind"] == "tpm":
                await stack.enter_async_context(tpm(resource))
        process, qmp = await stack.enter_async_context(launched(argv))
        assert (await qmp.execute("query-status"))["status"] == "prelaunch"
        nodes = await qmp.execute("query-named-block-nodes")
        assert {node["image"]["filename"] for node in nodes if node["drv"] == "file"} == set(files(argv))
        await qmp.execute("quit")
        _, errors = await process.communicate()
        assert (process.returncode, errors.decode()) == (0, "")


def here(argv: tuple[str, ...]) -> Iterator[str]:
    """The command line with ports that are free, and without the devices of another host."""
    words = iter(argv)
    for word in words:
        if word == "-device" and (value := next(words)):
            if '"vfio-pci"' not in value and '"hostbus"' not in value:
                yield from (word, value)
        else:
            yield re.sub(r":\d+-:", ":0-:", word)


def skip_what_is_missing(plan: dict[str, Any], argv: list[str], machines: str) -> None:
    if f"{plan['machine']} " not in machines:
        pytest.skip(f"needs a QEMU with {plan['machine']}")
    kinds = {resource["kind"] for resource in plan["resources"]}
    if "tap" in kinds and not (os.geteuid() == 0 and Path("/dev/net/tun").exists()):
        pytest.skip("needs root and /dev/net/tun")
    if "tpm" in kinds and shutil.which("swtpm") is None:
        pytest.skip("needs swtpm")
    if "nvram" in kinds and not all(Path(path).exists() for path in files(argv) if "OVMF" in path):
        pytest.skip("needs OVMF")


def files(argv: list[str]) -> dict[str, str]:
    """Every file of a block device, with its format."""
    nodes = [json.loads(value) for flag, value in itertools.pairwise(argv) if flag == "-blockdev"]
    return {node["file"]["filename"]: node["driver"] for node in nodes}


def make_files(plan: dict[str, Any], argv: list[str]) -> None:
    templates = {r["path"]: r["template"] for r in plan["resources"] if r["kind"] == "nvram"}
    for path, format in files(argv).items():
        if path in templates:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(templates[path], path)
        elif not Path(path).exists():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # A plain name, and then a rename: qemu-img would read `file:` and `json:` as protocols.
            plain = Path(path).parent / "new"
            subprocess.run(["qemu-img", "create", "-q", "-f", format, str(plain), "1M"], check=True)
            plain.rename(path)
    for flag, value in itertools.pairwise(argv):
        if flag in ("-kernel", "-initrd"):
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).write_bytes(KERNEL)
        for path in re.findall(r"(?:path=|unix:|\"mem-path\":\")([^,\"]+)", value):
            Path(path).parent.mkdir(parents=True, exist_ok=True)


def kernel() -> bytes:
    """What QEMU takes for a bzImage. Source: Linux Documentation/arch/x86/boot.rst, protocol 2.12."""
    image = bytearray(64 << 10)
    image[0x1F1] = 4  # setup_sects
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x208] = b"HdrS\x0c\x02"
    image[0x22C:0x230] = b"\xff\xff\xff\x7f"  # initrd_addr_max
    return bytes(image)


KERNEL = kernel()


@asynccontextmanager
async def tpm(resource: dict[str, Any]) -> AsyncIterator[None]:
    Path(resource["state"]).mkdir(parents=True)
    control = f"type=unixio,path={resource['socket']}"
    process = await asyncio.create_subprocess_exec(
        "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={resource['state']}", "--ctrl", control
    )  # fmt: skip
    try:
        assert await poll_until(exists(Path(resource["socket"])), timeout_s=20), "swtpm did not come up"
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def exists(path: Path) -> Any:
    async def probe() -> bool:
        return path.exists()

    return probe


class Qmp:
    """One command at a time to a QEMU that may end instead of answering."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer

    async def execute(self, command: str) -> Any:
        self._writer.write(json.dumps({"execute": command}).encode())
        while True:
            answer = await self.read()
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    async def read(self) -> dict[str, Any]:
        with suppress(ConnectionError):
            if line := await self._reader.readline():
                answer: dict[str, Any] = json.loads(line)
                return answer
        _, errors = await self._process.communicate()
        raise AssertionError(f"QEMU refused: {errors.decode()}")


@asynccontextmanager
async def launched(argv: list[str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, Qmp]]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL, stderr=pipe)
    (path,) = (word.split("path=")[1].split(",")[0] for word in argv if word.startswith("socket,id=qmp,"))

    async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        if process.returncode is not None:
            _, errors = await process.communicate()
            raise AssertionError(f"QEMU refused: {errors.decode()}")
        try:
            return await asyncio.open_unix_connection(path, limit=1 << 20)
        except OSError:
            return None

    writer: asyncio.StreamWriter | None = None
    try:
        streams = await poll_until(connected, timeout_s=30)
        assert streams, "QEMU did not come up"
        reader, writer = streams
        qmp = Qmp(process, reader, writer)
        assert "QMP" in await qmp.read()
        await qmp.execute("qmp_capabilities")
        yield process, qmp
    finally:
        if writer is not None:
            writer.close()
        if process.returncode is None:
            process.kill()
            await process.communicate()
