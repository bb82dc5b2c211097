"""Serial consoles that outlive the agent: one small daemon per home holds every VM's serial line.

Called by the agent (`client`, `logs`) and by the CLI (`terminal`); the daemon itself is `python -m roost.consoles`.
It must not know what a VM is beyond the sockets and files of its two directories.
"""
