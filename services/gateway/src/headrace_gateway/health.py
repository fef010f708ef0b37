"""``/healthz``, ``/readyz`` and ``/metrics`` for orchestrators and Prometheus, without an API key."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from headrace.errors import HeadraceError
from headrace_gateway.dependencies import Check, Dependencies

router = APIRouter(tags=["operation"])

_CHECK_S = 2.0


@router.get("/healthz", summary="Check that the process is alive")
async def healthz() -> dict[str, bool]:
    """Return 200 while the process is alive."""
    return {"alive": True}


@router.get("/readyz", summary="Check the gateway's dependencies")
async def readyz(request: Request) -> JSONResponse:
    """Return the state of each dependency; status 503 if one is down."""
    dependencies: Dependencies = request.app.state.dependencies
    states = await check_all(dependencies.checks)
    ready = all(state["up"] for state in states.values())
    return JSONResponse({"ready": ready, "dependencies": states}, 200 if ready else 503)


@router.get("/metrics", summary="Metrics for Prometheus")
async def prometheus() -> Response:
    """Return the metrics in Prometheus text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def check_all(checks: Mapping[str, Check]) -> dict[str, dict[str, Any]]:
    """Return for each dependency whether it is up, and its error if it is down."""
    outcomes = await asyncio.gather(*(_check(check) for check in checks.values()))
    return dict(zip(checks, outcomes, strict=True))


async def _check(check: Check) -> dict[str, Any]:
    try:
        await asyncio.wait_for(check(), _CHECK_S)
    except HeadraceError as error:
        return {"up": False, "reason": error.message}
    except TimeoutError:
        return {"up": False, "reason": f"no answer within {_CHECK_S:g} s"}
    return {"up": True}
