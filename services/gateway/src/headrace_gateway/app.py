"""The FastAPI application: routes, authentication and problem documents."""

from __future__ import annotations

from fastapi import FastAPI

from headrace_gateway import health, problems, routes_changes, routes_documents, routes_search
from headrace_gateway.authentication import Authenticator
from headrace_gateway.body_limit import BodyLimit
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.idempotency import AnswerCache
from headrace_gateway.observing import Observing


def create_app(dependencies: Dependencies) -> FastAPI:
    """Return the application. It uses the given dependencies and opens no connections itself."""
    settings = dependencies.settings
    app = FastAPI(
        title="Headrace",
        summary="Send changes of documents; search them and ask questions about them.",
        version="1",
        docs_url=None,
        redoc_url=None,
        strict_content_type=False,
    )
    app.state.dependencies = dependencies
    app.state.authenticator = Authenticator(dependencies.store.owner_of, settings.key_cache_s)
    app.state.answers = AnswerCache(settings.idempotency_entries, settings.idempotency_s)
    problems.install(app, settings.retry_after_s)
    for router in (routes_changes.router, routes_search.router, routes_documents.router, health.router):
        app.include_router(router)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Observing)
    return app
