"""Images for every layer that boots VMs: built once and kept for the next run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from roost.common.paths import Home
from roost.images import ImageStore, build_image

_CACHE = Path(__file__).parents[1] / ".cache" / "roost-tests"


def cache_dir() -> Path:
    """Where images for tests are kept: `$ROOST_TEST_CACHE`, or `.cache` of the checkout."""
    cache = Path(os.environ.get("ROOST_TEST_CACHE") or _CACHE).absolute()
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def built_image(recipe: str) -> Path:
    """The image's directory, named by its id; built when its recipe or its packages have changed. Only read it."""
    cache = cache_dir()
    home = Home(cache, cache / "run")
    home.cache.mkdir(parents=True, exist_ok=True)
    store = ImageStore(home)
    return store.directory(asyncio.run(build_image(store, recipe)).image.id)
