"""Plain QEMU, spoken to over QMP: the default hypervisor of one host.

Called through `hypervisors.base` only. It must not know the agent's policy or another hypervisor.

`plan` decides (`refusals` says why not), `command` and `devices` write what QEMU is told, `process` starts and finds it,
`qmp` talks to it, `power` starts and stops, `checkpoint` keeps what a VM is at one instant (sleep, wake, clone and
snapshots are made of it), `hotplug` changes devices of a running VM, and `backend` puts them behind the protocol.
"""
