"""The page of metrics, from what an agent without VMs exposes.

Callers: `PAGES`.
"""

from __future__ import annotations

import re

from roost.agent.metrics import Metrics
from scripts.reference.markdown import page, table

_INTRO = """
The agent answers `GET /metrics` on its socket, in Prometheus's text format:

```sh
curl --silent --unix-socket /run/roost/agent.sock http://localhost/metrics
```

With `roost agent serve --metrics-listen 127.0.0.1:9680`, or `ROOST_METRICS_LISTEN` in its environment, the same is served
over TCP: [Monitoring](../guides/monitoring.md).

Series with the label `vm` are there for each VM that exists at that moment. Beside these there are the usual
`process_…` series of the agent's own process.
"""


def metrics_page() -> str:
    text = Metrics(list).exposition().decode()
    kinds = dict(re.findall(r"^# TYPE (roost_\S+) (\S+)$", text, re.MULTILINE))
    meanings = re.findall(r"^# HELP (roost_\S+) (.*)$", text, re.MULTILINE)
    rows = [
        (f"`{name}`", kinds[name], meaning)
        for name, meaning in sorted(meanings)
        if not name.endswith("_created")
    ]
    return page("Metrics", _INTRO, table(("Name", "Type", "Meaning"), rows))
