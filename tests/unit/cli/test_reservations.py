from __future__ import annotations

import json

from roost.cli.reservations import FORMS
from roost.model.network import Reservation

FOUND = [
    Reservation(vm="web", nic=0, mac="02:00:00:00:00:05", network="lan", ipv4="10.0.0.5", ipv6="fd00::5"),
    Reservation(vm="db", nic=1, mac="02:00:00:00:00:06", network="br0"),
]
DATA = [reservation.model_dump(mode="json") for reservation in FOUND]


def test_dnsmasq_takes_the_lines() -> None:
    assert FORMS["dnsmasq"](DATA) == (
        "dhcp-host=02:00:00:00:00:05,[fd00::5],10.0.0.5,web\ndhcp-host=02:00:00:00:00:06,db"
    )


def test_isc_takes_the_declarations() -> None:
    assert FORMS["isc"](DATA).splitlines() == [
        "host web-0 {",
        "  hardware ethernet 02:00:00:00:00:05;",
        "  fixed-address 10.0.0.5;",
        '  option host-name "web";',
        "}",
        "host db-1 {",
        "  hardware ethernet 02:00:00:00:00:06;",
        '  option host-name "db";',
        "}",
    ]


def test_kea_takes_the_reservations() -> None:
    assert json.loads(FORMS["kea"](DATA)) == {
        "reservations": [
            {"hw-address": "02:00:00:00:00:05", "ip-address": "10.0.0.5", "hostname": "web"},
            {"hw-address": "02:00:00:00:00:06", "hostname": "db"},
        ]
    }


def test_a_table_program_takes_the_lines() -> None:
    assert FORMS["csv"](DATA).splitlines() == [
        "vm,nic,mac,ipv4,ipv6,network",
        "web,0,02:00:00:00:00:05,10.0.0.5,fd00::5,lan",
        "db,1,02:00:00:00:00:06,,,br0",
    ]
