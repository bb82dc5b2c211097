"""The agent's REST API, version 1: routes by noun over `agent.service.VmService`.

Served by `agent.server`; `app.create_app` makes it. It must not know hypervisors, files of VMs or how anything is done:
it reads requests, calls one service, and says what came of it.
"""
