"""The Hugging Face Hub: one brief try, and one clear error for each way in which it can fail, told apart by type."""

from collections.abc import Iterator
from contextlib import contextmanager

_PROBE_SECONDS = 5.0
_OFFLINE = (
    "the Hugging Face Hub cannot be reached and there is no copy in the local cache. Check the network (HF_ENDPOINT, "
    "HF_HUB_OFFLINE)"
)


@contextmanager
def reading_hub(what: str, *, instead: str) -> Iterator[None]:
    """Errors of the Hub inside the block become one clear error about ``what``, with the way out ``instead``.

    The Hub is asked once whether it is there. If it is not, only the local cache is read: its client would retry for half a
    minute. Raises ConnectionError (unreachable) and ValueError (gated, no such repository, no such revision).
    """
    with hub_errors(what, instead=instead), _offline_if_unreachable():
        yield


@contextmanager
def hub_errors(what: str, *, instead: str) -> Iterator[None]:
    """The errors of `reading_hub` alone, for a stream that is open already."""
    try:
        yield
    except Exception as error:
        problem = _problem(error)
        if problem is None:
            raise
        text = f"{what}: {problem}; or {instead}"
        raise (ConnectionError(text) if problem == _OFFLINE else ValueError(text)) from error


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    """Whether the Hub's address gives any answer at all."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # whatever the HTTP library of the day raises: no answer came
        return False
    return True


def _problem(error: BaseException) -> str | None:
    """What the Hub said, from the types in the chain of causes; None for an error that is not the Hub's."""
    from huggingface_hub import errors

    chain = list(_causes(error))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    if has(errors.GatedRepoError):
        return "access to it is gated: accept its terms on its Hub page and log in (hf auth login)"
    if has(errors.RevisionNotFoundError):
        return "it has no such revision: give a branch, tag or commit that its Hub page lists"
    if has(errors.RepositoryNotFoundError):
        return "the Hub has nothing of this name: check its spelling; if it is private, log in (hf auth login)"
    if has(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError):
        return _OFFLINE
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
