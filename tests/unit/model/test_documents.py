"""What a person is told about a document, and where."""

from __future__ import annotations

import json

import pytest

from roost.errors import InvalidSpec, Problem
from roost.model.documents import parse_spec, validate
from roost.model.host import AcceleratorVerdict
from roost.model.problems import MAX_PROBLEMS
from roost.model.spec import DiskSpec, VmSpec

ALL_KEYS = f"known keys: {', '.join(VmSpec.model_fields)}"


def problems(text: str, **options: str) -> list[Problem]:
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(text, **options)
    return refused.value.problems


def told(text: str) -> str:
    """The one problem of a document."""
    found = problems(text)
    assert len(found) == 1, found
    return str(found[0])


def test_all_problems_come_at_once_each_with_its_line_and_key() -> None:
    text = """\
name: Web
cpus: 0
memory:
  size: 5MiB
  baking: disk
disks:
  - name: data
    size: 1 potato

  - path: relative.img
    bus: sat
cpus: 2
"""
    assert [(problem.line, problem.key) for problem in problems(text)] == [
        (1, "name"),
        (4, "memory.size"),
        (5, "memory.baking"),
        (8, "disks[0].size"),
        (10, "disks[1].path"),
        (11, "disks[1].bus"),
        (12, "cpus"),
    ]


def test_the_message_names_the_document_and_has_a_line_for_each_problem() -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_spec("nam: web\nrestart: sometimes\n", source="web.yaml")
    assert str(refused.value).splitlines() == [
        "web.yaml has 2 problems:",
        "  line 1: nam: there is no such key (did you mean name?)",
        "  line 2: restart: 'sometimes' is not one of never, on-failure, always",
    ]
    assert refused.value.context["problems"][0] == {
        "key": "nam",
        "message": "there is no such key",
        "hint": "did you mean name?",
        "line": 1,
    }


@pytest.mark.parametrize(
    ("text", "key", "message", "hint"),
    [
        ("name: 123", "name", "a text is expected, not the number 123", "put it in quotes"),
        ("name:", "name", "a text is expected, not nothing", ""),
        (
            "name: on",
            "name",
            "a text is expected, not true",
            "put it in quotes: YAML reads yes, no, on and off as true and false",
        ),
        ("name: [web]", "name", "a text is expected, not a list", ""),
        ("name: a\ncpu: 3", "cpu", "a text is expected, not the number 3", "put it in quotes"),
        ("name: a\ncpus: two", "cpus", "a whole number is expected, not 'two'", ""),
        ("name: a\ncpus: 1.5", "cpus", "a whole number is expected, not the number 1.5", ""),
        ("name: a\ncpus: true", "cpus", "a whole number is expected, not true", ""),
        ("name: a\ncpus: {}", "cpus", "a whole number is expected, not a mapping", ""),
        ("name: a\ncpus: 0", "cpus", "must be at least 1", ""),
        ("name: a\ncpus: 1" + "0" * 290, "cpus", "must be at most 512", ""),
        ("name: a\nstart_order: -1", "start_order", "must be at least 0", ""),
        ("name: a\nshutdown_timeout: 0", "shutdown_timeout", "must be more than 0", ""),
        ("name: a\nshutdown_timeout: 2d", "shutdown_timeout", "must be at most 86400", ""),
        (
            "name: a\nshutdown_timeout: soon",
            "shutdown_timeout",
            "'soon' is not a duration; write it as 30s, 2m or 1h30m",
            "",
        ),
        (
            "name: a\nshutdown_timeout: .inf",
            "shutdown_timeout",
            "'.inf' is not a duration; write it as 30s, 2m or 1h30m",
            "",
        ),
        (
            "name: a\nshutdown_timeout: 1" + "0" * 290,
            "shutdown_timeout",
            "a duration cannot be negative or longer than 100 years",
            "",
        ),
        ("name: a\ntpm: maybe", "tpm", "true or false is expected, not 'maybe'", ""),
        ("name: a\nmemory: true", "memory.size", "not a size; write it as 512MiB or 2GiB", ""),
        ("name: a\nmemory: 1.5", "memory.size", "not a size; write it as 512MiB or 2GiB", ""),
        ("name: a\nmemory:", "memory.size", "not a size; write it as 512MiB or 2GiB", ""),
        ("name: a\nmemory: []", "memory.size", "not a size; write it as 512MiB or 2GiB", ""),
        ("name: a\nmemory: much", "memory.size", "'much' is not a size; write it as 512MiB or 2GiB", ""),
        ("name: a\nmemory: 1e999", "memory.size", "'1e999' is not a size; write it as 512MiB or 2GiB", ""),
        ("name: a\nmemory: 5MiB", "memory.size", "must be at least 16MiB", ""),
        ("name: a\nmemory: 256", "memory.size", "must be at least 16MiB", "256 bytes? Write 256MiB"),
        ("name: a\nmemory: 17PiB", "memory.size", "must be at most 16TiB", ""),
        ("name: a\nmemory: 100000001", "memory.size", "must be a multiple of 1MiB", ""),
        ("name: a\nmemory: {backing: disk}", "memory.size", "this key is required", ""),
        ("name: a\nnics: {}", "nics", "a list is expected, not a mapping", "begin each entry with a hyphen"),
        ("name: a\nnics:", "nics", "a list is expected, not nothing", ""),
        (
            "name: a\nnics: [5]",
            "nics[0]",
            "a mapping of keys to values is expected, not the number 5",
            "known keys: bridge, network, forwards, model, mac, ip, bandwidth, packets",
        ),
        (
            "name: a\nnics: [{forwards: [x]}]",
            "nics[0].forwards[0]",
            "write a forward as 8080:80, 127.0.0.1:8080:80 or 5353:53/udp",
            "",
        ),
        (
            "name: a\nnics: [{forwards: ['70000:80']}]",
            "nics[0].forwards[0].host_port",
            "must be at most 65535",
            "",
        ),
        (
            "name: a\nnics: [{forwards: [{host_port: 80}]}]",
            "nics[0].forwards[0].guest_port",
            "this key is required",
            "",
        ),
        (
            "name: a\nnics: [{ip: here}]",
            "nics[0].ip",
            "'here' does not appear to be an IPv4 or IPv6 interface",
            "",
        ),
        (
            "name: a\nnics: [{bridge: br0, ip: 192.168.1.20}]",
            "nics[0].ip",
            "on a bridge an address needs its prefix length, such as 192.168.1.20/24",
            "",
        ),
        ("name: a\ndisks: foo", "disks", "a list is expected, not 'foo'", "begin each entry with a hyphen"),
        (
            "name: a\ndisks: [{size: 1GiB, bus: virtoi}]",
            "disks[0].bus",
            "'virtoi' is not one of virtio, scsi, sata, ide, nvme, usb",
            "did you mean virtio?",
        ),
        ("name: a\ndisks: [{}]", "disks[0]", "an empty disk needs a size, such as size: 10GiB", ""),
        ("name: a\nrestart: no", "restart", "false is not one of never, on-failure, always", ""),
        (
            "name: a\nconsole: vnc",
            "console",
            "a mapping of keys to values is expected, not 'vnc'",
            "known keys: serial, vnc",
        ),
        (
            "name: a\ncloud_init: {user_data: 5}",
            "cloud_init.user_data",
            "a text or a mapping of keys to values is expected, not the number 5",
            "put it in quotes",
        ),
        (
            "name: a\ndevices: [{usb: 1.4}]",
            "devices[0].usb",
            "a text is expected, not the number 1.4",
            "put it in quotes",
        ),
        (
            "name: a\nlabels: {a b: x}",
            "labels.a b",
            "a label's key is 1 to 63 letters, digits, dots, underscores, slashes and hyphens, the first a letter or digit",
            "",
        ),
        ("name: a\nstr: 5", "str", "there is no such key", "did you mean restart?"),
        ("name: a\n'x[0]': 5", "x[0]", "there is no such key", ALL_KEYS),
        ("name: a\nconsole: {vcn: true}", "console.vcn", "there is no such key", "did you mean vnc?"),
        ("name: a\n1: 5", "1", "there is no such key", ALL_KEYS),
    ],
)
def test_a_mistake_is_told_in_a_sentence(text: str, key: str, message: str, hint: str) -> None:
    (problem,) = problems(text)
    assert (problem.key, problem.message, problem.hint) == (key, message, hint)
    assert problem.line == text.count("\n") + 1


def test_contradictions_are_told_together() -> None:
    sentence = told(
        "name: a\ninitrd: /i\ndisk_size: 1GiB\nfirmware: direct\ndrives: [{kind: config}, {kind: config}]"
    )
    for part in ("initrd needs", "disk_size belongs", "direct needs a kernel", "one drive of each kind"):
        assert part in sentence


def test_a_long_value_is_not_repeated_in_full() -> None:
    for text in (
        f"name: {'x' * 100_000}",
        f"name: a\nrestart: {'x' * 100_000}",
        f"name: a\ncpus: {'9' * 100_000}",
    ):
        assert len(told(text)) < 250


def test_a_flood_of_problems_is_cut_short() -> None:
    found = problems("name: a\n" + "\n".join(f"key{n}: 1" for n in range(MAX_PROBLEMS + 20)))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1].message == "and 20 more problems like these"


@pytest.mark.parametrize("text", ["- name: web", "web", "5", "null"])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    assert told(text) == "line 1: spec: a spec is a mapping of keys to values"


def test_relative_paths_start_at_the_base() -> None:
    text = """\
name: web
kernel: boot/vmlinuz
initrd: ../initrd
disks: [{path: a.img}, {path: /abs.img}, {size: 1GiB}]
cdroms: [a.iso, {path: b.iso}, {}]
drives:
  - {kind: secrets, files: {token: token.txt, other: /etc/other}}
  - {kind: config, files: {motd: not-a-path}}
"""
    spec = parse_spec(text, base="/home/me/vms")
    assert (spec.kernel, spec.initrd) == ("/home/me/vms/boot/vmlinuz", "/home/me/vms/../initrd")
    assert [disk.path for disk in spec.disks] == ["/home/me/vms/a.img", "/abs.img", None]
    assert [cdrom.path for cdrom in spec.cdroms] == ["/home/me/vms/a.iso", "/home/me/vms/b.iso", None]
    assert [drive.files for drive in spec.drives] == [
        {"token": "/home/me/vms/token.txt", "other": "/etc/other"},
        {"motd": "not-a-path"},
    ]


def test_without_a_base_relative_paths_are_refused_where_they_stand() -> None:
    text = "name: web\nkernel: vmlinuz\ncdroms:\n- a.iso\ndrives:\n- kind: secrets\n  files: {token: token.txt}\n"
    found = problems(text)
    assert [(problem.line, problem.key) for problem in found] == [
        (2, "kernel"),
        (4, "cdroms[0].path"),
        (6, "drives[0]"),
    ]
    assert "absolute" in found[0].message


@pytest.mark.parametrize(
    "text", ["disks: 5", "disks: [5]", "cdroms: {}", "drives: x", "drives: [{files: 5}]", "kernel: 5"]
)
def test_a_base_does_not_hide_wrong_types(text: str) -> None:
    assert problems(f"name: web\n{text}", base="/b")


def test_data_without_lines_is_told_by_key_alone() -> None:
    with pytest.raises(InvalidSpec) as refused:
        validate(DiskSpec, {"size": "1GiB", "bsu": "virtio"}, source="the request")
    assert str(refused.value) == "the request has 1 problem:\n  bsu: there is no such key (did you mean bus?)"


@pytest.mark.parametrize("document", [None, 5, "x", [], {"kvm": True, "reason": 5}, {5: 5}])
def test_data_of_any_type_is_refused_as_a_spec_is(document: object) -> None:
    with pytest.raises(InvalidSpec):
        validate(AcceleratorVerdict, document)


def test_json_has_lines_too() -> None:
    text = json.dumps({"name": "web", "memory": "1 potato", "cpus": 0}, indent=2)
    assert [(problem.line, problem.key) for problem in problems(text)] == [(3, "memory.size"), (4, "cpus")]
