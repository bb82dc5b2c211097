"""Images: what VMs boot from. A content-addressed store, and the three ways to get something into it.

Called by the agent. It must not know VMs, hypervisors or the API: whoever deletes an image says who uses it.
"""

from roost.images.add import Limits, add_image
from roost.images.build import RECIPES, Mirror, build_image
from roost.images.progress import Progress, Result
from roost.images.pull import Pull, pull_image
from roost.images.store import ImageStore

__all__ = [
    "RECIPES",
    "ImageStore",
    "Limits",
    "Mirror",
    "Progress",
    "Pull",
    "Result",
    "add_image",
    "build_image",
    "pull_image",
]
