"""Links of the host for VMs: taps on bridges. The only part of Roost that imports pyroute2.

Called by hypervisors, before a VM starts and after it ended. It must not know VMs: it is given names.
"""
