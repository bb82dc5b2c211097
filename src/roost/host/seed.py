"""What cloud-init in a guest is told: its name, its first login, its network, and the user's own data.

Callers: hypervisors, before a start, for the NoCloud drive. Pure: from spec and record to the texts of three files.

Source: cloud-init documentation, NoCloud data source and user-data formats, 23.1; network configuration version 2.
"""

from __future__ import annotations

import email
import hashlib
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from typing import Any

import yaml

from roost.errors import InvariantError, SpecError
from roost.model.spec import NicSpec, VmSpec
from roost.model.vm import VmRecord

_CLOUD_CONFIG = "#cloud-config"
_TEXT_TYPES = {
    "#!": "x-shellscript",
    "#cloud-boothook": "cloud-boothook",
    "#cloud-config-archive": "cloud-config-archive",
    "#cloud-config": "cloud-config",
    "#include-once": "x-include-once-url",
    "#include": "x-include-url",
    "#part-handler": "part-handler",
    "#upstart-job": "upstart-job",
    "## template: jinja": "jinja2",
}
"""First line of a user-data text → its MIME type below text/; the longer of two fitting beginnings comes first."""


def needs_seed(spec: VmSpec) -> bool:
    """Whether the spec says anything that only cloud-init can do in the guest: then it gets a drive."""
    return bool(
        spec.cloud_init
        or spec.user
        or spec.ssh_keys
        or spec.password
        or any(nic.ip and not nic.network for nic in spec.nics)
    )


def cloud_init_files(record: VmRecord, spec: VmSpec) -> dict[str, bytes]:
    """The files of a NoCloud drive. The same spec and record give the same bytes.

    `spec.password` is a hash here. A user's `meta_data` cannot change the instance id and the host name.

    Raises:
        SpecError: the user's own user_data has no form that cloud-init knows.
        InvariantError: the password is not hashed.
    """
    wanted = spec.cloud_init
    meta: dict[str, Any] = dict((wanted.meta_data if wanted else None) or {})
    meta |= {"instance-id": record.uuid, "local-hostname": record.name}
    own = wanted.network_config if wanted else None
    network = own if own is not None else network_config(spec.nics, record.macs)
    files = {"meta-data": _yaml(meta), "user-data": user_data(spec)}
    if network:
        files["network-config"] = network if isinstance(network, str) else _yaml(network)
    return {name: text.encode() for name, text in files.items()}


def user_data(spec: VmSpec) -> str:
    """Our part of the configuration joined with the user's own."""
    ours, theirs = first_login(spec), spec.cloud_init.user_data if spec.cloud_init else None
    if isinstance(theirs, dict):
        return _cloud_config(_merge(ours, theirs))
    if theirs is None:
        return _cloud_config(ours)
    kind = _text_type(theirs)
    if not ours:
        return theirs
    if kind == "cloud-config" and isinstance(document := _load(theirs), dict):
        return _cloud_config(_merge(ours, document))
    return _multipart(_cloud_config(ours), theirs, kind)


def first_login(spec: VmSpec) -> dict[str, Any]:
    """The part of cloud-config that makes `user`, `ssh_keys` and `password` true; empty when none is given."""
    if spec.password is not None and not spec.password.startswith("$"):
        raise InvariantError("a password reached the cloud-init seed in plain text")
    if not (spec.user or spec.ssh_keys or spec.password):
        return {}
    config: dict[str, Any] = {"ssh_pwauth": False}
    if spec.user is None:
        if spec.ssh_keys:
            config["ssh_authorized_keys"] = list(spec.ssh_keys)
        if spec.password:  # of the image's default user
            config |= {"password": spec.password, "chpasswd": {"expire": True}}
        return config
    user: dict[str, Any] = {
        "name": spec.user,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": not spec.password,
    }
    if spec.ssh_keys:
        user["ssh_authorized_keys"] = list(spec.ssh_keys)
    if spec.password:
        user["passwd"] = spec.password
        entry = {"name": spec.user, "password": spec.password, "type": "hash"}
        config["chpasswd"] = {"expire": True, "users": [entry]}
    return config | {"users": [user]}


def network_config(nics: tuple[NicSpec, ...], macs: tuple[str, ...]) -> dict[str, Any]:
    """Each NIC by its MAC: a fixed address on a bridge, else DHCP. Empty without NICs.

    On the user-mode network and on networks that Roost manages a fixed address comes by DHCP, too.
    """
    ethernets: dict[str, Any] = {}
    for index, (nic, mac) in enumerate(zip(nics, macs, strict=True)):
        entry: dict[str, Any] = {"match": {"macaddress": mac}}
        fixed = nic.ip if nic.bridge else None
        entry |= {"addresses": [fixed], "dhcp4": False} if fixed else {"dhcp4": True}
        if nic.network:
            entry["dhcp6"] = True
        ethernets[f"nic{index}"] = entry
    return {"version": 2, "ethernets": ethernets} if ethernets else {}


def _merge(ours: Any, theirs: Any) -> Any:
    """Mappings are joined, lists appended, and of two values the user's own wins."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return {
            key: _merge(ours.get(key), theirs[key]) if key in theirs else ours[key] for key in ours | theirs
        }
    if isinstance(ours, list) and isinstance(theirs, list):
        return ours + [item for item in theirs if item not in ours]
    return theirs


def _cloud_config(config: dict[str, Any]) -> str:
    return f"{_CLOUD_CONFIG}\n{_yaml(config)}"


def _yaml(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=True, allow_unicode=True, width=1000)


def _load(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"cloud_init.user_data is not valid YAML: {error}") from error


def _text_type(text: str) -> str:
    """MIME type below text/, or `mime` for a text that is a MIME message already."""
    first = text.split("\n", 1)[0].strip()
    if first.lower().startswith(("content-type:", "mime-version:")):
        return "mime"
    for beginning, kind in _TEXT_TYPES.items():
        if first.startswith(beginning):
            return kind
    raise SpecError(
        "cloud_init.user_data has no first line that cloud-init knows",
        hint="start it with #cloud-config, with #! for a script, or write it as a mapping",
    )


def _multipart(ours: str, theirs: str, kind: str) -> str:
    digest = hashlib.sha256(f"{ours}\0{theirs}".encode()).hexdigest()
    message = MIMEMultipart(boundary=f"=={digest[:32]}==")
    message.attach(_part(ours, "cloud-config"))
    message.attach(email.message_from_string(theirs) if kind == "mime" else _part(theirs, kind))
    return message.as_string()


def _part(text: str, kind: str) -> Message:
    part = MIMENonMultipart("text", kind, charset="utf-8")
    part.set_payload(text, "utf-8")
    return part
