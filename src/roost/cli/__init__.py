"""The command line: `roost`.

Started by a person or a script. It talks to an agent over its API and prints what it gets; `main` is also the
composition root that starts the agent. Modules are imported when their command runs: start-up time is a feature
(ADR 0002), and so nothing here may import pydantic, asyncio or yaml at module level.
"""
