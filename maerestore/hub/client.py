"""Calls to the Hugging Face Hub: retries after server errors, and errors as one line each.

The client's releases build on different HTTP libraries (requests, then httpx) whose errors they let through. Those are
recognised by the names of their classes, so that none of the libraries has to be imported.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from maerestore.hub.errors import ModelError, NotFoundError, UnreachableError

TRIES = 4
FIRST_WAIT = 1.0  # seconds, doubled after each try

_UNREACHABLE = {"ConnectionError", "ConnectError", "ProxyError", "Timeout", "TimeoutException"}
_CUT_SHORT = {"RemoteProtocolError", "ReadError", "ChunkedEncodingError", "ProtocolError", "IncompleteRead"}
_BAD_HEADER = {"LocalProtocolError", "InvalidHeader", "UnicodeEncodeError"}  # of a request that cannot be sent at all
_NOT_CACHED = "LocalEntryNotFoundError"  # of a call that has looked into the cache
_NOT_FOUND = {*_UNREACHABLE, _NOT_CACHED, "OfflineModeIsEnabled", "RepositoryNotFoundError"}
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"

Result = TypeVar("Result")


def ask_hub(
    action: Callable[[], Result],
    repository: str,
    revision: str | None = None,
    *,
    sending: bool = False,
    tries: int = TRIES,
) -> Result:
    """Call the Hub; retry after 1, 2 and 4 seconds where the server failed (5xx) or the connection broke.

    The client repeats some of its requests itself, but neither the look-up of a repository, nor the start of a
    download, nor a commit.

    Args:
        action: the call; it must do no harm when done twice.
        repository: "org/name", for the message.
        revision: branch, tag or commit, for the message.
        sending: whether something is written to the Hub.
        tries: how often to call at most.

    Raises:
        ModelError: the call failed; one line that says why and what to do. A `NotFoundError` where the repository may
            not exist, an `UnreachableError` where nothing answers.
    """
    for attempt in range(tries):
        try:
            return action()
        except (MemoryError, TypeError, ModelError):  # not the Hub's doing
            raise
        except Exception as err:
            chain = _causes(err)
            if attempt + 1 < tries and ((_status(chain) or 0) >= 500 or _cut_short(chain)):
                time.sleep(FIRST_WAIT * 2**attempt)
                continue
            message = explain(err, repository, revision, sending=sending)
            if _class_names(chain) & _BAD_HEADER:  # whose text holds the token: a traceback would show it
                raise ModelError(message) from None
            names = _class_names(chain)
            if names & _UNREACHABLE:
                raise UnreachableError(message) from err
            raise (NotFoundError if names & _NOT_FOUND else ModelError)(message) from err
    raise AssertionError("no try was made")


def explain(err: Exception, repository: str, revision: str | None = None, *, sending: bool = False) -> str:
    """What went wrong between us and the Hub, and what to do about it, in one line.

    Args:
        err: what `huggingface_hub` raised.
        repository: "org/name".
        revision: branch, tag or commit that was asked for.
        sending: whether something was being written to the Hub.
    """
    from huggingface_hub import constants, errors

    chain = _causes(err)
    names = _class_names(chain)
    status, endpoint = _status(chain), constants.ENDPOINT
    name = f"{repository}@{revision}" if revision else repository
    if "GatedRepoError" in names:
        return f"{repository}: access to it must be asked for at {endpoint}/{repository}; then {_LOG_IN}"
    if "RevisionNotFoundError" in names:
        return f"{repository}: no revision {revision!r} there: give a branch, tag or commit of that repository"
    if "RepositoryNotFoundError" in names:
        if sending:
            return f"{repository}: no such repository, or your token may not read it: check the name and the token"
        return f"{repository}: no such repository, or a private one: check the name; for a private one {_LOG_IN}"
    if "DisabledRepoError" in names:
        return f"{repository}: the repository was disabled by its author or by the Hub"
    if status == 401:
        return f"{name}: the Hub refuses the token (401): {_LOG_IN}; without any token public models can be read"
    if status == 403:
        do = (
            f"use a token that may write to {repository.partition('/')[0]}"
            if sending
            else "use a token that may read it"
        )
        return f"{name}: the token lacks permission (403{_said(chain)}): {do}"
    if status in (402, 413, 507):
        return (
            f"{name}: the Hub takes no more of your data ({status}{_said(chain)}): free storage, or use another account"
        )
    if status == 429:
        return f"{name}: too many requests (429{_said(chain)}): wait some minutes, then try again"
    if status is not None and status >= 500:
        return f"{name}: the Hub fails (error {status}): try again later"
    if "OfflineModeIsEnabled" in names or (isinstance(err, errors.LocalEntryNotFoundError) and len(chain) == 1):
        switch = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "local_files_only"
        if sending:
            return f"{name}: sending needs the network, but {switch}: unset it"
        part = "only a part is in the cache" if "IncompleteSnapshotError" in names else "not in the cache"
        return f"{name}: {part}, and the network is switched off ({switch}): run `maerestore pull {name}` once without"
    if names & _BAD_HEADER:
        return f"{name}: the request cannot be sent, a header holds a character that none may: check your token"
    if _cut_short(chain):
        return f"{name}: the {'upload' if sending else 'download'} was cut short, and is not used: try again"
    if names & _UNREACHABLE:
        cached = ", and it is not in the cache" if _NOT_CACHED in names else ""
        return f"{name}: the Hub at {endpoint} cannot be reached{cached}: check the network ({_reason(chain[-1])})"
    if "HFValidationError" in names:
        return f"{name}: not a folder, and no name of a repository ({_reason(err)})"
    return f"{name}: cannot be {'sent to' if sending else 'fetched from'} the Hub ({_reason(err)})"


def clean_token(token: str | bool | None) -> str | bool | None:
    """A token without the spaces and line breaks around it, which come from files and from copying.

    Args:
        token: as the Hub's client takes it: None for that of `hf auth login` or HF_TOKEN, False for none.

    Raises:
        ModelError: it holds a character that no token has; the message does not show it.

    Example:
        >>> clean_token("hf_abc\\n"), clean_token(None), clean_token(False)
        ('hf_abc', None, False)
    """
    from huggingface_hub import get_token

    found = token.strip() if isinstance(token, str) else get_token() if token in (None, True) else None
    if found is not None and not re.fullmatch("[!-~]+", found):
        what = "the token given" if isinstance(token, str) else "the token of HF_TOKEN or `hf auth login`"
        raise ModelError(f"{what} is empty, or holds a character that no token has: copy it again")
    return found if isinstance(token, str) else token


def quieten(progress: bool) -> None:
    """Let the client log errors only, so that users see one line: ours. What the user set (HF_HUB_...) stays.

    Only a program may call this, as it holds for the whole process, and those that it starts. The client is not loaded
    for it: its variables are set, which it reads when it is.

    Args:
        progress: whether it may draw progress bars.
    """
    chosen = "HF_HUB_VERBOSITY" in os.environ
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not progress:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "huggingface_hub" not in sys.modules:
        return
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, logging

    if not chosen:
        logging.set_verbosity_error()
    if not progress and constants.HF_HUB_DISABLE_PROGRESS_BARS is not False:  # where the user wants them it would warn
        disable_progress_bars()


def _causes(err: BaseException) -> list[BaseException]:
    """The error, what it was raised from, and so on."""
    chain = [err]
    while chain[-1].__cause__ is not None and chain[-1].__cause__ not in chain:
        chain.append(chain[-1].__cause__)
    return chain


def _class_names(chain: list[BaseException]) -> set[str]:
    return {base.__name__ for e in chain for base in type(e).__mro__}


def _cut_short(chain: list[BaseException]) -> bool:
    """Whether the connection ended before the data did. That sizes differ the client says only in its message."""
    names = _class_names(chain)
    return bool(names & _CUT_SHORT and not names & _BAD_HEADER) or "Consistency check failed" in str(chain[0])


def _status(chain: list[BaseException]) -> int | None:
    """The HTTP status that the Hub answered with, if it answered."""
    responses: list[Any] = [getattr(e, "response", None) for e in chain]
    return next((r.status_code for r in responses if r is not None), None)


def _said(chain: list[BaseException]) -> str:
    """What the Hub gave as its reason."""
    message = next((m for e in chain if (m := getattr(e, "server_message", None))), None)
    return f": {_shortened(message)}" if message else ""


def _reason(err: BaseException) -> str:
    return _shortened(str(err)) or type(err).__name__


def _shortened(text: str) -> str:
    line = re.sub(r"Bearer .*|hf_\w+", "(token)", " ".join(text.split()).rstrip("."))
    return line if len(line) <= 300 else line[:299] + "…"
