"""What the openai client raises, in Headrace's words: is the record to blame, or the other side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import openai

from headrace.codec.retry_after import retry_after
from headrace.errors import DependencyDown, PermanentError

_OURS_TO_REPAIR = (401, 403, 404)
_PASSING = (408, 409, 425, 429)


@contextmanager
def translated(dependency: str, settings: str) -> Iterator[None]:
    """Turn the client's errors in this block into Headrace's.

    No connection, a timeout, 408, 409, 425, 429 and 5xx are :class:`DependencyDown`, with the time in Retry-After;
    so are 401, 403 and 404, since a deployment (``settings``) is to blame and no record, and an answer that is cut
    short or no JSON.
    Any other refusal concerns this request alone: :class:`PermanentError`.
    """
    try:
        yield
    except openai.APIConnectionError as error:
        raise DependencyDown(dependency, f"{dependency} does not answer: {error.__cause__ or error}") from error
    except openai.APIStatusError as error:
        status = error.status_code
        said = f"{dependency} answered HTTP {status}: {error.message[:300]}"
        if status in _OURS_TO_REPAIR:
            raise DependencyDown(dependency, said, remedy=f"Check {settings}.") from error
        if status >= 500 or status in _PASSING:
            raise DependencyDown(
                dependency, said, delay=retry_after(error.response.headers.get("Retry-After"))
            ) from error
        raise PermanentError(
            said, remedy="The request itself is refused; ask a shorter question or for fewer passages."
        ) from error
    except UnicodeEncodeError:
        raise  # the request's own text, not the answer
    except (openai.OpenAIError, ValueError, RecursionError) as error:
        # The client lets errors of the JSON decoder through: an answer that was cut short is no fault of the request.
        raise DependencyDown(dependency, f"{dependency} answered what cannot be read: {error}") from error
