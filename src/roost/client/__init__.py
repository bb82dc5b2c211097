"""A synchronous client of an agent's REST API over its Unix socket.

Called by the CLI. Answers are the JSON of `roost.api.types` as dictionaries: a command that lives for 80 ms loads no
models. It must not know how anything is printed, and imports nothing beyond the standard library.
"""
