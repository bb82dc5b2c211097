"""Small things that every part of Roost needs: sizes, files, waiting, logging, paths.

Called by every package above. It knows nothing about VMs.
"""
