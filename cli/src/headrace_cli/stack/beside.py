"""The embedder and the indexer of a second generation, as processes of the local stack beside its services."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.topology.generation_names import GENERATION_STAGES
from headrace_cli import state
from headrace_cli.stack import services
from headrace_local.stack import Stack

if TYPE_CHECKING:
    from headrace.store.rows import Generation

_HASHING = re.compile(r"hashing-(\d{1,4})")
_OF_THE_MODEL = tuple(
    f"HEADRACE_EMBEDDER_{part}"
    for part in ("MODEL", "DIMENSIONS", "PASSAGE_PROMPT", "QUERY_PROMPT", "MAX_TOKENS", "TOKENIZER")
)


@dataclass(frozen=True, slots=True)
class Model:
    """The embedder that the caller names; None means as the running one."""

    model: str | None = None
    provider: str | None = None
    dimensions: int | None = None
    query_prompt: str | None = None

    def settings(self, running: state.RunningServices, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the settings of the new embedder, with its provider; another model inherits none of the old one's."""
        base = {**running.embedder, **services.embedder_settings(environment)}
        if self.model is not None:
            base = {name: value for name, value in base.items() if name not in _OF_THE_MODEL}
            base["HEADRACE_EMBEDDER_MODEL"] = self.model
        hashing = _HASHING.fullmatch(self.model or "")
        dimensions = int(hashing[1]) if hashing else self.dimensions
        if dimensions is not None:
            base["HEADRACE_EMBEDDER_DIMENSIONS"] = str(dimensions)
        if self.query_prompt is not None:
            base["HEADRACE_EMBEDDER_QUERY_PROMPT"] = self.query_prompt
        return {**base, services.PROVIDER: self.provider or self._provider(running.provider)}

    def _provider(self, running: str) -> str:
        """Return the provider of a model by its name, or the running one if it runs models by name."""
        name = (self.model or "").rpartition("/")[2]
        if self.model is None:
            return running
        if _HASHING.fullmatch(name):
            return "hashing"
        if name.startswith("potion-"):
            return "model2vec"
        return "sentence-transformers" if running in ("hashing", "model2vec") else running


class LocalStack:
    """A running local stack whose generations change."""

    def __init__(self, folder: Path, running: state.RunningServices, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self.running = running
        self.stack = Stack(folder)

    def embedder_url(self, generation: str) -> str:
        """Return where the generation's embedder answers queries, now or once it is started."""
        return services.query_url(self.stack.port, services.mark_of(generation))

    def own_url(self) -> str:
        """Return where the embedder of the generation that the services work for answers queries."""
        base = state.read_generations(self._folder).base
        return services.query_url(self.stack.port, "" if base is None else services.mark_of(base))

    def start(self, generation: Generation, settings: Mapping[str, str], say: Callable[[str], None]) -> None:
        """Start the embedder and the indexer of the generation, and keep them in the stack from now on."""
        from headrace_cli.stack.launch import Launch, Launcher  # noqa: PLC0415

        kept = {
            **settings,
            "HEADRACE_EMBEDDER_DIMENSIONS": str(generation.dimensions),
            "HEADRACE_EMBEDDER_TEXT_TEMPLATE": generation.template,
            "HEADRACE_EMBEDDER_PASSAGE_PROMPT": generation.passage_prompt,
            "HEADRACE_EMBEDDER_OVER_LONG": str(generation.over_long),
        }
        known = state.read_generations(self._folder)
        own = {**known.own, generation.name: known.own.get(generation.name, kept)}
        state.write(self._folder, state.GENERATIONS, replace(known, own=own))
        environment = dict(self._environment)
        if self.running.objects:
            environment.setdefault(services.OBJECTS, self.running.objects)
        Launcher(Launch(self._folder, self.running.provider, environment=environment), say).start_beside(
            generation.name
        )

    def is_kept(self, generation: str) -> bool:
        """Whether the stack has an embedder and an indexer for the generation beside its services."""
        return generation in state.read_generations(self._folder).own

    def stop(self, generation: str, active: str) -> None:
        """Stop the embedder and the indexer of a generation for good.

        If the services worked for it, they go on with the active one, through that one's lanes: they are restarted. The
        file of the services is written last, so that a stop that was killed can be repeated.
        """
        known = state.read_generations(self._folder)
        was_base = generation == self.running.generation
        names = self._workers(services.mark_of(generation))
        if was_base and generation not in known.own:
            names += self._workers("")  # the stack's first generation
        if names:
            self.stack.stop(*names)
        base = active if was_base and active in known.own else (None if was_base else known.base)
        own = {name: settings for name, settings in known.own.items() if name != generation}
        state.write(self._folder, state.GENERATIONS, state.StackGenerations(base, own))
        urls = {name: url for name, url in self.running.status_urls.items() if name not in names}
        self.running = replace(self.running, status_urls=urls)
        if was_base:
            self._work_for(active, own.get(active))
        state.write(self._folder, state.SERVICES, self.running)

    def _workers(self, mark: str) -> list[str]:
        """Return the processes of a generation's embedder and indexer, all instances."""
        pattern = re.compile(rf"(?:{'|'.join(sorted(GENERATION_STAGES))}){re.escape(mark)}(?:-\d+)?")
        return [process.name for process in self.stack.status() if pattern.fullmatch(process.name)]

    def _work_for(self, generation: str, settings: Mapping[str, str] | None) -> None:
        """Restart the services that every generation shares, in the lanes of this one."""
        shared = set(services.SERVICES) - GENERATION_STAGES
        for process in self.stack.status():
            if process.name.partition("-")[0] in shared:
                self.stack.restart(process.name, {services.GENERATION: generation})
        known = {} if settings is None else settings
        provider = services.provider_of(known[services.PROVIDER], known) if known else None
        self.running = replace(
            self.running, generation=generation,
            provider=self.running.provider if provider is None else provider.name,
            model=self.running.model if provider is None else provider.model,
            embedder=services.embedder_settings(known) if known else self.running.embedder,
        )  # fmt: skip


def local_stack(folder: Path, kafka: str | None, environment: Mapping[str, str]) -> LocalStack | None:
    """Return the folder's running stack if it runs the services; None if another Kafka is named or none runs."""
    running = state.read_services(folder)
    if running is None or kafka not in (None, running.kafka):
        return None
    names = {process.name.partition("-")[0] for process in Stack(folder).status()}
    return LocalStack(folder, running, environment) if names & set(services.SERVICES) else None
