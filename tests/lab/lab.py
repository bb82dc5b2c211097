"""A lab: nodes on one Ethernet of their own, each with Roost from this checkout and the image `tiny`.

Callers: the fixtures of this layer, and `python -m tests.lab`.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Self

from tests.images import built_image
from tests.lab.image import NodeImage
from tests.lab.node import Node, Segment, Size

_SRC = Path(__file__).parents[2] / "src"


class Lab:
    """Use it as a context manager: at its end the nodes and their disks are gone."""

    def __init__(self, image: NodeImage, parcel: Path) -> None:
        self.nodes_on: list[Node] = []
        self._image = image
        self._parcel = parcel
        self._stack = contextlib.ExitStack()
        # Numbers that no other lab on this machine is likely to draw.
        draw = random.SystemRandom()
        self._segment = Segment(
            f"239.77.{draw.randrange(256)}.{draw.randrange(1, 255)}", draw.randrange(20_000, 30_000)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def node(self, size: Size | None = None) -> Node:
        """One more node, up, with Roost in it; nothing of Roost runs yet."""
        return self.nodes(1, size)[0]

    def nodes(self, count: int, size: Size | None = None) -> list[Node]:
        """More nodes, which boot side by side. They know each other's names and reach each other on eth0."""
        made = [self._make(len(self.nodes_on) + index + 1, size or Size()) for index in range(count)]
        self.nodes_on += made
        for node in made:
            node.switch_on()
        for node in made:
            node.wait_up()
            node.sh("tar -x -p -C / -f /dev/disk/by-id/virtio-parcel")
        hosts = "".join(f"{node.address} {node.name}\n" for node in self.nodes_on)
        for node in self.nodes_on:
            node.put("/etc/hosts", f"127.0.0.1 localhost\n{hosts}")
        return made

    def _make(self, number: int, size: Size) -> Node:
        directory = Path(tempfile.mkdtemp(prefix=f"roost-lab-{number}-", dir="/tmp"))
        self._stack.callback(shutil.rmtree, directory)
        overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self._image.disk)]
        subprocess.run([*overlay, str(directory / "disk.qcow2")], check=True)
        (directory / "parcel.tar").symlink_to(self._parcel)
        node = Node(number, directory, self._image, self._segment, size)
        self._stack.callback(node.close)
        return node


def write_parcel(target: Path) -> None:
    """What a node gets when it is made, for it changes more often than the node image: Roost's sources, and `tiny`.

    An archive that a node reads from a disk as if it were a tape.
    """

    def of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if entry.name.endswith("__pycache__"):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    tiny = built_image("tiny")
    names = json.dumps({"tiny": tiny.name}).encode()
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(_SRC, "opt/roost/src", filter=of_root)
        archive.add(tiny, f"var/lib/roost/images/{tiny.name}", filter=of_root)
        entry = tarfile.TarInfo("var/lib/roost/images/names.json")
        entry.size = len(names)
        archive.addfile(entry, io.BytesIO(names))
