"""The recipe `debian`: not there yet, and it says so.

Callers: `build_image`.
"""

from __future__ import annotations

from roost.errors import Unsupported
from roost.images.build.apt import Mirror
from roost.images.progress import Progress, Result
from roost.images.store import ImageStore


async def build_debian(store: ImageStore, *, name: str, mirror: Mirror | None, progress: Progress) -> Result:
    """Raises `Unsupported`: the recipe is planned."""
    del store, name, mirror, progress
    raise Unsupported(
        "the recipe debian is planned and not there yet",
        hint="`roost image pull debian/12` takes the distribution's own cloud image",
    )
