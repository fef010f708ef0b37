"""The provider that calls an OpenAI-compatible language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
import openai

from headrace.errors import ConfigurationError, DependencyDown, PermanentError
from headrace.store.search import Hit
from headrace_generator.citations import neutralised
from headrace_generator.openai_errors import translated
from headrace_generator.providers import Draft
from headrace_generator.settings import GeneratorSettings

PROMPT = "answer@1"
"""Name and version of ``prompts/answer.txt.jinja``; increment the version when its text changes."""
_DEPENDENCY = "language model"


@dataclass(frozen=True, slots=True)
class Prompt:
    """The two messages of one request."""

    system: str
    user: str


class LanguageModelProvider:
    """Calls ``{base_url}/chat/completions``. The client does not retry, because the runtime does."""

    name = "openai-compatible"

    def __init__(self, settings: GeneratorSettings, http: openai.DefaultAsyncHttpxClient | None = None) -> None:
        if not settings.base_url or not settings.model:
            raise ConfigurationError(
                "the provider openai-compatible requires a server and a model",
                where="HEADRACE_GENERATOR_BASE_URL, HEADRACE_GENERATOR_MODEL",
                remedy="Set both, or set HEADRACE_GENERATOR_PROVIDER=extractive.",
            )
        self._model = settings.model
        self._settings = settings
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key.get_secret_value() if settings.api_key else "none",
            timeout=settings.timeout_s,
            max_retries=0,
            http_client=http,
        )

    async def write(self, question: str, passages: Sequence[Hit]) -> Draft:
        """Return the model's answer."""
        prompt = render(question, passages)
        with translated(_DEPENDENCY, "HEADRACE_GENERATOR_BASE_URL, …_MODEL and …_API_KEY"):
            answer = await self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
                max_tokens=self._settings.max_tokens,
                temperature=self._settings.temperature,
            )
        try:
            text = _storable(answer.choices[0].message.content or "").strip()
            model = answer.model or self._model
        except (LookupError, AttributeError, TypeError) as error:
            raise DependencyDown(_DEPENDENCY, f"the server's response is not a chat completion: {error!r}") from error
        if not text:
            raise PermanentError("the language model returned an empty answer", remedy="Rephrase the question.")
        return Draft(text, model, PROMPT)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _storable(text: str) -> str:
    """Return the text without NUL and lone surrogates, which Kafka records and PostgreSQL cannot store."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def render(question: str, passages: Sequence[Hit]) -> Prompt:
    """Return the messages with every value escaped, so that no passage can close its element."""
    macros = _macros()
    return Prompt(str(macros.system()), str(macros.user(question, passages)))


@cache
def _macros() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("headrace_generator", "prompts"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["neutralised"] = neutralised
    return environment.get_template("answer.txt.jinja").module
