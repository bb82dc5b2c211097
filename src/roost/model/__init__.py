"""What VMs are: specs, plans, records, statuses, host facts. Frozen data and pure functions.

Called by every package above. It must not do I/O, know a hypervisor, or know how anything is stored or sent.
"""
