"""Roost runs virtual machines: on one host, as Docker Swarm services, and on a fleet that tenants share."""

__version__ = "0.1.0"
