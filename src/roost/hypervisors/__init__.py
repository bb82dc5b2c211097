"""The programs that run VMs, each behind the protocol in `base`.

Called by the agent. A hypervisor knows one VMM and the host's resources; it must not know the agent, policy, desired
state or another hypervisor.
"""
