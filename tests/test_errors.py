"""Every exception of ours."""

from __future__ import annotations

import pickle

import pytest

from aioipc import errors

OTHERS: dict[str, Exception] = {
    "AccessDenied": errors.AccessDenied(13, "what happened"),
    "FrameTooLarge": errors.FrameTooLarge(2_000, 1_000, "use several"),
    "PeerCrashed": errors.PeerCrashed("what happened", status=-9, unconsumed=3),
    "RemoteError": errors.RemoteError("what happened", type="KeyError", text="'a'"),
    "ResourceExhausted": errors.ResourceExhausted(24, "what happened"),
    "TruncatedFrame": errors.TruncatedFrame(status=1),
    "WorkerDied": errors.WorkerDied(
        "what happened", status=-9, out_of_memory=True, last_lines=("one", "two")
    ),
}
"""Those that are not made of a text alone."""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", [name for name in errors.__all__ if name[0].isupper()])
def test_another_process_gets_it_as_it_is(name: str, protocol: int) -> None:
    error = OTHERS.get(name) or getattr(errors, name)("what happened")
    error.add_note("and where")
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))
