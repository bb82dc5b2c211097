"""What a Linux host gives a VM: disks, RAM, firmware, TPM, seed drives, processes; and a verdict on itself.

Called by hypervisors, and by the agent for checks and installation. It must not know a hypervisor's protocol, desired
state, or who asked. Resources are idempotent: `ensure` acquires, `release` gives back, `delete` throws away what
was kept.
"""
