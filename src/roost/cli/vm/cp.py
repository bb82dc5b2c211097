"""`roost vm cp`: files and directories into a guest and out of it, through the guest agent.

A file streams as it is. A directory travels as a tar archive by way of a temporary file in the guest, so for it the
guest needs `sh` and `tar`.
"""

from __future__ import annotations

import os
import posixpath
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from roost.cli.app import App
from roost.cli.errors import DONE, FAILED
from roost.cli.options import complete_vms, output_option
from roost.cli.output import printable
from roost.cli.progress import Progress
from roost.cli.vm.trees import pack, unpack
from roost.common.units import human_size
from roost.errors import CommandRejected, HostError, NotFoundError, RoostError

if TYPE_CHECKING:
    from roost.client.guest import Guest

_IN_GUEST = re.compile(r"([a-z0-9][a-z0-9-]*):(.+)", re.DOTALL)
_CHUNK = 1 << 18

# Scripts for the guest's shell. A new file has its permissions before it has its content; the guest agent's own have 666.
_MAKE = '[ -d "$1" ] && f=${1%/}/$2 || f=$1; umask 077; : >"$f" && { chmod "$3" "$f"; printf %s "$f"; }'
_MAKE_ROOM = """
command -v tar >/dev/null || exit 127
[ -d /var/tmp ] && f=/var/tmp/$1 || f=/tmp/$1; umask 077; : >"$f" && printf %s "$f"
"""
_UNPACK = '[ -d "$1" ] && d=$1/$2 || d=$1; mkdir -p "$d" && tar -xf "$3" -C "$d"'


def _complete_place(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [f"{name}:" for name in complete_vms(ctx, param, incomplete)]


@click.command()
@click.argument("source", shell_complete=_complete_place)
@click.argument("target", shell_complete=_complete_place)
@output_option
@click.pass_obj
def cp(app: App, source: str, target: str) -> int:
    """Copy files into a guest or out of it.

    One of SOURCE and TARGET is in a VM, written NAME:/path. Into a TARGET that is a directory, it goes by its own name.

    \b
    roost vm cp site web:/srv
    roost vm cp web:/var/log/messages .
    """  # noqa: D301 click keeps the lines below its mark as they are
    outward, inward = _IN_GUEST.fullmatch(source), _IN_GUEST.fullmatch(target)
    with Progress(f"{source} → {target}") as progress:
        if outward and not inward:
            copy = _Copy(app.agent.guest, outward[1], progress)
            left_out = copy.out(outward[2], Path(target))
        elif inward and not outward:
            copy = _Copy(app.agent.guest, inward[1], progress)
            left_out = copy.into(Path(source), inward[2])
        else:
            raise click.UsageError(
                "One of SOURCE and TARGET is in a VM, written NAME:/path; the other is not."
            )
    for name in left_out:
        click.echo(f"left out {printable(name)}", err=True)
    data = {"source": source, "target": target, "bytes": copy.copied_bytes, "left_out": left_out}
    app.show(data, lambda data: f"{source} → {target} ({human_size(data['bytes'])})")
    return FAILED if left_out else DONE


class _Copy:
    """One way between here and one guest."""

    def __init__(self, guest: Guest, vm: str, progress: Progress) -> None:
        self._guest = guest
        self._vm = vm
        self._progress = progress
        self.copied_bytes = 0

    def into(self, source: Path, target: str) -> list[str]:
        """Raises NotFoundError when there is no `source`, and what the guest says."""
        if source.is_dir():
            self._tree_into(source, target)
        elif source.exists():
            with source.open("rb") as file:
                self._send(file, self._make(target, source))
        else:
            raise NotFoundError(f"there is no {source} here")
        return []

    def out(self, source: str, target: Path) -> list[str]:
        """Names that were left out. A file that is there already is replaced once all of the new one has come.

        What is written to and not replaced: a device, a pipe.
        """
        if target.is_dir():
            target /= posixpath.basename(posixpath.normpath(source))
        if self._is_directory(source):
            return self._tree_out(source, target)
        target = Path(os.path.realpath(target))
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                self._fetch(source, file)
            return []
        partial = target.with_name(f".roost-{secrets.token_hex(6)}.part")
        with partial.open("xb") as file:  # whoever else may write here has not put a link in its place
            try:
                self._fetch(source, file)
                file.flush()
                partial.replace(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        return []

    def _tree_into(self, source: Path, target: str) -> None:
        with tempfile.TemporaryFile() as archive:
            self._progress.update("packing")
            pack(source, archive)
            archive.seek(0)
            room = self._room()
            try:
                self._send(archive, room)
                self._progress.update("unpacking")
                self._shell(_UNPACK, target.rstrip("/") or "/", source.resolve().name, room)
            finally:
                self._remove(room)

    def _tree_out(self, source: str, target: Path) -> list[str]:
        with tempfile.TemporaryFile() as archive:
            room = self._room()
            try:
                self._progress.update("packing")
                self._shell('tar -cf "$2" -C "$1" .', source, room)
                self._fetch(room, archive)
            finally:
                self._remove(room)
            archive.seek(0)
            target.mkdir(exist_ok=True)
            return unpack(archive, target)

    def _room(self) -> str:
        """A new temporary file in the guest, which only its owner may read."""
        return self._shell(_MAKE_ROOM, f".roost-{secrets.token_hex(6)}.tar").decode()

    def _remove(self, path: str) -> None:
        with suppress(RoostError):  # what went wrong before says more
            self._shell('rm -f "$1"', path)

    def _make(self, target: str, source: Path) -> str:
        """Make `source`'s empty copy, of its permissions, at or in `target`; its path."""
        mode = f"{source.stat().st_mode & 0o755:o}"
        try:
            return self._shell(_MAKE, target, source.name, mode).decode()
        except (
            CommandRejected
        ):  # a guest without sh has no such permissions either; the path must say what it is
            return posixpath.join(target, source.name) if target.endswith("/") else target

    def _is_directory(self, path: str) -> bool:
        try:
            return self._guest.run(self._vm, ["sh", "-c", '[ -d "$1" ]', "sh", path]).status == 0
        except CommandRejected:  # it has no sh, and then no tar
            return False

    def _shell(self, script: str, *arguments: str) -> bytes:
        ran = self._guest.run(self._vm, ["sh", "-c", script, "sh", *arguments])
        if ran.status != 0:
            said = ran.stderr.decode(errors="replace").strip() or f"status {ran.status}"
            hint = "install tar in the guest, or copy files one by one" if ran.status == 127 else ""
            raise RoostError(f"{self._vm} cannot copy this: {said}", hint=hint)
        return ran.stdout

    def _send(self, file: IO[bytes], path: str) -> None:
        total = os.fstat(file.fileno()).st_size
        self._guest.write_file(self._vm, path, self._counted(_chunks_of(file), total))

    def _fetch(self, path: str, file: IO[bytes]) -> None:
        with self._guest.read_file(self._vm, path) as stream:
            for chunk in self._counted(stream.chunks(), stream.length):
                file.write(chunk)

    def _counted(self, chunks: Iterable[bytes], total: int | None) -> Iterator[bytes]:
        self.copied_bytes = 0
        for chunk in chunks:
            self.copied_bytes += len(chunk)
            self._progress.update(human_size(self.copied_bytes), self.copied_bytes, total)
            yield chunk


def _chunks_of(file: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK):
            yield chunk
    except OSError as error:
        raise HostError(f"{file.name}: {error.strerror}") from error
