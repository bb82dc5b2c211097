"""The routes into guests, over a real socket; the guest agent's client is the real one."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest

from roost.agent.progress import ignore
from roost.testing.service import PNG
from tests.unit.agent.http.conftest import Api, error_of, until


async def test_exec_returns_what_the_command_said_and_how_it_ended(api: Api) -> None:
    await api.vm(state="running")
    said = await api.post("/v1/vms/web/exec", {"argv": ["echo", "hello"]})
    assert (base64.b64decode(said["stdout"]), said["exit_code"], said["truncated"]) == (b"hello\n", 0, False)
    failed = await api.post("/v1/vms/web/exec", {"argv": ["false"]})
    assert failed["exit_code"] == 1


async def test_exec_hands_stdin_on(api: Api) -> None:
    await api.vm(state="running")
    body = {"argv": ["cat"], "stdin": base64.b64encode(b"\x00\xff").decode()}
    assert base64.b64decode((await api.post("/v1/vms/web/exec", body))["stdout"]) == b"\x00\xff"


async def test_exec_refuses_stdin_that_is_no_base64(api: Api) -> None:
    await api.vm(state="running")
    answer = await api.http.post("/v1/vms/web/exec", json={"argv": ["cat"], "stdin": "ä"})
    assert answer.status_code == 400
    assert error_of(answer)["context"]["problems"][0]["key"] == "stdin"


async def test_a_program_that_is_not_there_is_no_failure_of_the_agent(api: Api) -> None:
    await api.vm(state="running")
    answer = await api.http.post("/v1/vms/web/exec", json={"argv": ["nope"]})
    assert (answer.status_code, error_of(answer)["code"]) == (422, "backend_rejected")


async def test_the_guest_of_a_stopped_vm_cannot_be_asked(api: Api) -> None:
    await api.vm()
    answer = await api.http.get("/v1/vms/web/files", params={"path": "/etc/hostname"})
    assert (answer.status_code, error_of(answer)["code"]) == (409, "wrong_state")


async def test_a_guest_without_an_agent_may_be_asked_again(api: Api) -> None:
    vm = await api.vm(state="running")
    vm.guest.answers = False
    answer = await api.http.post("/v1/vms/web/exec", json={"argv": ["echo"]})
    assert (answer.status_code, error_of(answer)["retryable"]) == (503, True)


async def test_files_stream_in_and_out(api: Api) -> None:
    vm = await api.vm(state="running")
    data = bytes(range(256)) * 4096

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    written = await api.http.put("/v1/vms/web/files", params={"path": "/root/data"}, content=pieces())
    assert written.status_code == 204
    assert vm.guest.files["/root/data"] == data
    read = await api.http.get("/v1/vms/web/files", params={"path": "/root/data"})
    assert read.content == data
    assert read.headers["x-roost-size"] == str(len(data))


async def test_a_file_with_a_mode_is_made_before_anything_is_in_it(api: Api) -> None:
    vm = await api.vm(state="running")
    query = {"path": "/root/key", "mode": "600"}
    assert (await api.http.put("/v1/vms/web/files", params=query, content=b"secret")).status_code == 204
    assert vm.guest.files["/root/key"] == b"secret"
    refused = await api.http.put("/v1/vms/web/files", params={**query, "mode": "rw"}, content=b"")
    assert refused.status_code == 400


async def test_a_missing_file_is_refused_before_the_answer_begins(api: Api) -> None:
    await api.vm(state="running")
    answer = await api.http.get("/v1/vms/web/files", params={"path": "/nope"})
    assert (answer.status_code, error_of(answer)["code"]) == (422, "backend_rejected")


async def test_an_upload_that_breaks_off_is_no_bug(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    vm = await api.vm(state="running")
    _reader, writer = await asyncio.open_unix_connection(api.socket)
    head = b"PUT /v1/vms/web/files?path=/big HTTP/1.1\r\nhost: agent\r\ncontent-length: 1000000\r\n\r\n"
    writer.write(head + b"half")
    await writer.drain()
    await until(lambda: "/big" in vm.guest.files)
    writer.close()
    await writer.wait_closed()
    await until(lambda: b'status="499"' in api.services.metrics.exposition())
    assert "bug" not in capsys.readouterr().out


async def test_screenshot_is_a_png(api: Api) -> None:
    await api.vm(state="running", console={"vnc": True})
    answer = await api.http.get("/v1/vms/web/screenshot")
    assert (answer.headers["content-type"], answer.content) == ("image/png", PNG)
    assert list(api.services.home.cache.iterdir()) == []


async def test_a_vm_without_display_has_no_screenshot(api: Api) -> None:
    await api.vm(state="running")
    assert (await api.http.get("/v1/vms/web/screenshot")).status_code == 422


async def test_logs_are_the_last_lines(api: Api) -> None:
    await api.vm()
    api.vms.serial_log("web").write_bytes(b"one\ntwo\nthree\n")
    answer = await api.http.get("/v1/vms/web/logs", params={"lines": 2})
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.content == b"two\nthree\n"


async def test_followed_logs_end_with_the_vm(api: Api) -> None:
    await api.vm(state="running")
    log = api.vms.serial_log("web")
    log.write_bytes(b"booting\n")
    async with api.http.stream("GET", "/v1/vms/web/logs", params={"follow": True}) as answer:
        chunks = answer.aiter_bytes()
        assert await anext(chunks) == b"booting\n"
        with log.open("ab") as file:
            file.write(b"last words\n")
        await api.vms.stop("web", ignore, timeout_s=None, force=False)
        assert b"".join([chunk async for chunk in chunks]) == b"last words\n"


async def test_followed_logs_end_with_the_agent(api: Api) -> None:
    await api.vm(state="running")
    api.vms.serial_log("web").write_bytes(b"booting\n")
    async with api.http.stream("GET", "/v1/vms/web/logs", params={"follow": True}) as answer:
        chunks = answer.aiter_bytes()
        await anext(chunks)
        api.stop.set()
        assert [chunk async for chunk in chunks] == []
    await api.server
