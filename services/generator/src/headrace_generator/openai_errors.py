"""Translates the openai client's errors into Headrace's: did the record cause the failure, or the dependency?"""

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
    """Translate the client's errors in this block into Headrace's.

    A failed connection, a timeout, 408, 409, 425, 429 and 5xx become :class:`DependencyDown`, with the delay of
    Retry-After. So do 401, 403 and 404, because the deployment (``settings``) causes them and not the record, and a
    response that is truncated or not JSON.
    Any other status concerns this request only: :class:`PermanentError`.
    """
    try:
        yield
    except openai.APIConnectionError as error:
        raise DependencyDown(dependency, f"{dependency} is unreachable: {error.__cause__ or error}") from error
    except openai.APIStatusError as error:
        status = error.status_code
        said = f"{dependency} returned HTTP {status}: {error.message[:300]}"
        if status in _OURS_TO_REPAIR:
            raise DependencyDown(dependency, said, remedy=f"Check {settings}.") from error
        if status >= 500 or status in _PASSING:
            raise DependencyDown(
                dependency, said, delay=retry_after(error.response.headers.get("Retry-After"))
            ) from error
        raise PermanentError(
            said, remedy="The server rejects this request. Shorten the question, or request fewer passages (top_k)."
        ) from error
    except UnicodeEncodeError:
        raise  # caused by the request's text, not by the response
    except (openai.OpenAIError, ValueError, RecursionError) as error:
        # The client does not catch errors of its JSON decoder. The request is not to blame for a truncated response.
        raise DependencyDown(dependency, f"cannot parse the response of {dependency}: {error}") from error
