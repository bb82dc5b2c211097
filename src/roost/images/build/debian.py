"""Later."""

from roost.images.build.tiny import build_tiny

build_debian = build_tiny
