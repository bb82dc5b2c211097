"""`/metrics` and nothing else, for a Prometheus that comes over TCP.

Callers: `server`, when it was told to listen there. Nobody is asked who they are, so no other route may come here.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from roost.agent.metrics import CONTENT_TYPE, Metrics


def metrics_app(metrics: Metrics) -> Starlette:
    async def scrape(_request: Request) -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/metrics", scrape, methods=["GET"])])
