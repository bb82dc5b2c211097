from __future__ import annotations

import email
from typing import Any

import pytest
import yaml

from roost.errors import InvariantError, SpecError
from roost.host.seed import cloud_init_files, needs_seed, user_data
from roost.model.spec import VmSpec
from roost.model.vm import VmRecord

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExample me@here"
HASH = "$6$salt$" + "x" * 86
RECORD = VmRecord(
    id="abcdefghijkl",
    name="web",
    uuid="6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    created="2026-01-01T00:00:00Z",
    hypervisor="qemu",
    accelerator="tcg",
    machine="pc-q35-7.2",
    cpu="max",
    uid=None,
    macs=("52:54:00:00:00:01",),
    vmgenid="6ba7b810-9dad-11d1-80b4-00c04fd430c9",
)


def spec(**changes: Any) -> VmSpec:
    return VmSpec.model_validate({"name": "web"} | changes)


def files(**changes: Any) -> dict[str, Any]:
    """The files that are YAML, parsed."""
    made = cloud_init_files(RECORD, spec(**changes))
    return {name: yaml.safe_load(text) for name, text in made.items()}


def config(**changes: Any) -> Any:
    text = user_data(spec(**changes))
    assert text.startswith("#cloud-config\n")
    return yaml.safe_load(text)


def test_the_instance_is_named_after_the_vm_whatever_the_user_says() -> None:
    made = files(cloud_init={"meta_data": {"instance-id": "other", "local-hostname": "other", "role": "db"}})
    assert made["meta-data"] == {"instance-id": RECORD.uuid, "local-hostname": "web", "role": "db"}


def test_the_same_spec_gives_the_same_bytes() -> None:
    wanted = spec(user="me", ssh_keys=[KEY], password=HASH, cloud_init={"user_data": "#!/bin/sh\ntrue\n"})
    assert cloud_init_files(RECORD, wanted) == cloud_init_files(RECORD, wanted)


def test_a_user_gets_keys_and_a_password_that_must_be_changed() -> None:
    made = config(user="me", ssh_keys=[KEY], password=HASH)
    assert made["ssh_pwauth"] is False
    (user,) = made["users"]
    assert user["name"] == "me"
    assert user["ssh_authorized_keys"] == [KEY]
    assert user["passwd"] == HASH
    assert user["lock_passwd"] is False
    assert made["chpasswd"] == {"expire": True, "users": [{"name": "me", "password": HASH, "type": "hash"}]}


def test_a_user_without_a_password_cannot_log_in_with_one() -> None:
    (user,) = config(user="me", ssh_keys=[KEY])["users"]
    assert user["lock_passwd"] is True
    assert "passwd" not in user


def test_without_a_user_keys_and_password_are_the_default_users() -> None:
    made = config(ssh_keys=[KEY], password=HASH)
    assert made == {
        "ssh_pwauth": False,
        "ssh_authorized_keys": [KEY],
        "password": HASH,
        "chpasswd": {"expire": True},
    }


def test_a_plain_password_is_our_own_bug() -> None:
    with pytest.raises(InvariantError):
        user_data(spec(password="hunter2"))


def test_a_mapping_is_merged_and_the_users_own_values_win() -> None:
    own = {"users": [{"name": "other"}], "ssh_pwauth": True, "packages": ["git"]}
    made = config(user="me", cloud_init={"user_data": own})
    assert [user["name"] for user in made["users"]] == ["me", "other"]
    assert made["ssh_pwauth"] is True
    assert made["packages"] == ["git"]


def test_cloud_config_text_is_merged_like_a_mapping() -> None:
    made = config(user="me", cloud_init={"user_data": "#cloud-config\npackages: [git]\n"})
    assert made["packages"] == ["git"]
    assert made["users"][0]["name"] == "me"


@pytest.mark.parametrize("text", ["#cloud-config\n# a comment\npackages: [git]\n", "#!/bin/sh\necho hello\n"])
def test_text_is_passed_on_as_it_is_when_we_have_nothing_to_add(text: str) -> None:
    assert user_data(spec(cloud_init={"user_data": text})) == text


def parts(text: str) -> list[tuple[str, str]]:
    message = email.message_from_string(text)
    assert message.is_multipart()
    return [
        (part.get_content_type(), part.get_payload(decode=True).decode())  # type: ignore[union-attr]
        for part in message.walk()
        if not part.is_multipart()
    ]


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        ("#!/bin/sh", "text/x-shellscript"),
        ("#cloud-boothook", "text/cloud-boothook"),
        ("#cloud-config-archive", "text/cloud-config-archive"),
        ("#include-once", "text/x-include-once-url"),
        ("#include", "text/x-include-url"),
        ("## template: jinja", "text/jinja2"),
    ],
)
def test_other_text_becomes_a_second_part(first: str, kind: str) -> None:
    text = f"{first}\nécho\n"
    ours, theirs = parts(user_data(spec(user="me", cloud_init={"user_data": text})))
    assert ours[0] == "text/cloud-config"
    assert yaml.safe_load(ours[1])["users"][0]["name"] == "me"
    assert theirs == (kind, text)


def test_a_mime_message_is_taken_in_with_its_parts() -> None:
    inner = user_data(spec(user="inner", cloud_init={"user_data": "#!/bin/sh\ntrue\n"}))
    assert inner.startswith("Content-Type: multipart")
    kinds = [kind for kind, _ in parts(user_data(spec(user="me", cloud_init={"user_data": inner})))]
    assert kinds == ["text/cloud-config", "text/cloud-config", "text/x-shellscript"]


def test_text_that_cloud_init_would_ignore_is_refused() -> None:
    with pytest.raises(SpecError, match="start it with #cloud-config"):
        user_data(spec(cloud_init={"user_data": "packages: [git]\n"}))


def test_broken_yaml_is_refused() -> None:
    with pytest.raises(SpecError, match="not valid YAML"):
        user_data(spec(user="me", cloud_init={"user_data": "#cloud-config\na: [\n"}))


def test_nics_are_known_by_their_macs() -> None:
    assert files()["network-config"] == {
        "version": 2,
        "ethernets": {"nic0": {"match": {"macaddress": RECORD.macs[0]}, "dhcp4": True}},
    }


def test_a_fixed_address_on_a_bridge_is_set_in_the_guest() -> None:
    made = files(nics=[{"bridge": "br0", "ip": "192.168.1.20/24"}])["network-config"]["ethernets"]["nic0"]
    assert (made["addresses"], made["dhcp4"]) == (["192.168.1.20/24"], False)


@pytest.mark.parametrize("nic", [{"ip": "10.0.2.20"}, {"network": "lab", "ip": "10.1.0.5"}])
def test_a_fixed_address_elsewhere_comes_by_dhcp(nic: dict[str, str]) -> None:
    assert files(nics=[nic])["network-config"]["ethernets"]["nic0"]["dhcp4"] is True


def test_the_users_own_network_configuration_replaces_ours() -> None:
    assert (
        files(cloud_init={"network_config": {"version": 1, "config": []}})["network-config"]["version"] == 1
    )
    made = cloud_init_files(RECORD, spec(cloud_init={"network_config": "version: 2 # mine\n"}))
    assert made["network-config"] == b"version: 2 # mine\n"


def test_a_vm_without_nics_has_no_network_configuration() -> None:
    record = RECORD.model_copy(update={"macs": ()})
    assert "network-config" not in cloud_init_files(record, spec(nics=[]))


def test_a_seed_is_needed_only_for_what_cloud_init_does() -> None:
    assert not needs_seed(spec())
    assert needs_seed(spec(user="me"))
    assert needs_seed(spec(cloud_init={}))
