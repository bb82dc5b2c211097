"""The daemon of one node: makes what is observed equal to what is wanted.

Started by `roost agent serve`; spoken to over its API. It must not know the CLI, and only hypervisors touch a VMM.
"""
