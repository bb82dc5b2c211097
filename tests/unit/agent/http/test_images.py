"""The routes of images, over a real socket."""

from __future__ import annotations

import pytest

from tests.unit.agent.http.conftest import Api, error_of


async def test_images_are_listed_and_shown(api: Api) -> None:
    assert [image["name"] for image in await api.get("/v1/images")] == ["debian", "tiny"]
    assert (await api.get("/v1/images/tiny", verify=True))["kind"] == "kernel"
    assert (await api.http.get("/v1/images/nope")).status_code == 404


async def test_an_image_in_use_is_kept(api: Api) -> None:
    await api.vm(image="debian")
    answer = await api.http.delete("/v1/images/debian")
    assert (answer.status_code, error_of(answer)["code"]) == (409, "conflict")
    assert (await api.http.delete("/v1/images/tiny")).status_code == 204
    assert [image["name"] for image in await api.get("/v1/images")] == ["debian"]


@pytest.mark.parametrize(
    ("how", "body"),
    [
        ("build", {"recipe": "debian", "name": "mine"}),
        ("add", {"path": "/srv/mine.qcow2", "name": "mine"}),
        ("pull", {"source": "https://example.org/mine.qcow2", "name": "mine", "unverified": True}),
    ],
)
async def test_getting_an_image_is_an_operation(api: Api, how: str, body: dict[str, object]) -> None:
    operation = await api.post(f"/v1/images/{how}", body, wait=5)
    assert (operation["kind"], operation["target"], operation["state"]) == (f"image.{how}", "mine", "done")
    assert operation["result"]["name"] == "mine"


async def test_a_relative_path_is_refused(api: Api) -> None:
    answer = await api.http.post("/v1/images/add", json={"path": "mine.qcow2"})
    assert answer.status_code == 400
    assert error_of(answer)["context"]["problems"][0]["key"] == "path"
