"""Nodes to look around on: `python -m tests.lab [COUNT]` boots them and waits until it is interrupted."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from pathlib import Path

from tests.lab.image import node_image
from tests.lab.lab import Lab, write_parcel


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with tempfile.TemporaryDirectory() as directory:
        parcel = Path(directory, "parcel.tar")
        write_parcel(parcel)
        with Lab(node_image(), parcel) as lab:
            for node in lab.nodes(count):
                print(f"{node.name}, {node.address}, as root; Ctrl-] leaves the console:")
                print(f"  socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{node.console}", flush=True)
            print("Ctrl-C switches off and forgets them.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


if __name__ == "__main__":
    main()
