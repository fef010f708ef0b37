"""Verifies a generation before search is switched to it: coverage, digests against the log, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headrace.errors import ConfigurationError
from headrace.retrieval.questions import Questions, SearchSettings
from headrace.store.generations import get_generation, list_generations
from headrace.store.pool import StoreSettings, opened_pool
from headrace.store.reindex import Coverage, Lacking, coverage
from headrace.store.rows import Generation
from headrace_operations.audit.model import Report
from headrace_operations.audit.run import Scope, audit
from headrace_operations.cluster import Cluster
from headrace_operations.errors import NotThere
from headrace_operations.generations.rights import owner
from headrace_operations.reindex.quality import Quality, quality
from headrace_operations.reindex.questions import Asked, drawn
from headrace_operations.reindex.switch import SETTLE_S, unsettled

if TYPE_CHECKING:
    from headrace.retrieval.query_vectors import QueryVectors
    from headrace.store.search import Question

QUESTIONS = 200
SEED = "headrace"


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What to verify. ``asked`` are questions; without, headings are drawn. ``count`` 0 asks none.

    ``maximum_loss`` is how much less nDCG@10 and recall@10 than those of the active generation may be, from 0 to 1.
    """

    name: str
    asked: Sequence[Asked] = ()
    count: int = QUESTIONS
    seed: str = SEED
    maximum_loss: float = 0.02
    deep: bool = False
    settle_s: float = SETTLE_S


@dataclass(frozen=True, slots=True)
class Verified:
    """The result; ``problems`` say what is not as it must be, and are empty if search may be switched."""

    generation: str
    against: str
    tenants: Sequence[Coverage]
    missing: Sequence[Lacking]
    report: Report
    questions: int
    before: Quality | None
    after: Quality | None
    problems: Sequence[str]

    def document(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        documents = sum(one.documents for one in self.tenants)
        return {
            "generation": self.generation, "against": self.against, "ok": not self.problems,
            "problems": list(self.problems),
            "coverage": {
                "documents": documents, "missing": documents - sum(one.covered for one in self.tenants),
                "lost": [asdict(one) for one in self.missing], "tenants": [asdict(one) for one in self.tenants],
            },
            "digests": self.report.as_dict(),
            "quality": {
                "questions": self.questions,
                self.against: None if self.before is None else asdict(self.before),
                self.generation: None if self.after is None else asdict(self.after),
            },
        }  # fmt: skip


async def verify(
    cluster: Cluster,
    searched: StoreSettings,
    embedder: QueryVectors,
    request: VerifyRequest,
    told: Callable[[str], None] = lambda _: None,
) -> Verified:
    """Compare the generation with the log and with the active one.

    ``searched`` is the login that searches, as a service does. Raises :class:`NotThere` for an unknown generation,
    :class:`ConfigurationError` if none is active, and :class:`DependencyDown`.
    """
    async with owner(cluster.known_store()) as connection:
        found = await get_generation(connection, request.name)
        active = next((one for one in await list_generations(connection) if one.state == "active"), None)
        if found is None or active is None:
            raise NotThere(f"unknown generation {request.name!r}" if found is None else "no generation is active")
        told("coverage")
        missing = await unsettled(connection, found.name, request.settle_s)
        tenants = await coverage(connection, found.name)
    told("digests")
    scope = Scope(generation=found.name, deep=request.deep)
    report = await audit(cluster.kafka, cluster.codec, cluster.known_store(), scope, told)
    asked, before, after = await _compared(searched, embedder, active, found, tenants, request, told)
    problems = [*_incomplete(found.name, missing, report), *losses(before, after, request.maximum_loss)]
    return Verified(found.name, active.name, tenants, missing, report, len(asked), before, after, problems)


async def _compared(
    searched: StoreSettings, embedder: QueryVectors, active: Generation, found: Generation,
    tenants: Sequence[Coverage], request: VerifyRequest, told: Callable[[str], None],
) -> tuple[Sequence[Asked], Quality | None, Quality | None]:  # fmt: skip
    """Return the questions, and the quality of the active generation and of the new one; None without questions."""
    questions = Questions(embedder, SearchSettings())

    async def ask(generation: Generation, tenant: str, text: str) -> Question:
        return await questions.ask(generation, tenant, text)

    async with opened_pool(searched) as pool:
        asked = request.asked
        if not asked and request.count:
            known = [(one.tenant, one.documents) for one in tenants]
            asked = await drawn(pool, known, request.count, request.seed)
        if not asked:
            return (), None, None
        told(f"{len(asked)} questions to {active.name}")
        before = await quality(pool, active, asked, ask)
        told(f"{len(asked)} questions to {found.name}")
        return asked, before, await quality(pool, found, asked, ask)


def _incomplete(name: str, missing: Sequence[Lacking], report: Report) -> list[str]:
    problems = []
    if missing:
        problems.append(f"{name} lacks {len(missing)} documents that are not on their way")
    if report.findings:
        problems.append(
            f"{len(report.findings)} differences from the log: `headrace audit --generation {name}` has repairs"
        )
    return problems


def losses(before: Quality | None, after: Quality | None, maximum: float) -> list[str]:
    """Return in which measures the new generation loses more than ``maximum``; pure."""
    if before is None or after is None:
        return []
    if not 0 <= maximum <= 1:
        raise ConfigurationError(f"{maximum} is not between 0 and 1", where="--maximum-loss")
    return [
        f"{words} is {new:.4f}, {old - new:.4f} less than {old:.4f}; allowed: {maximum}"
        for words, old, new in (
            ("nDCG@10", before.ndcg_10, after.ndcg_10), ("recall@10", before.recall_10, after.recall_10))
        if old - new > maximum
    ]  # fmt: skip
