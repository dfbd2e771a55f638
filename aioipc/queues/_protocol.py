"""What a served queue and its clients say to each other: msgpack arrays with a tag in front."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from aioipc.codecs import msgpack

__all__ = [
    "Accepted",
    "Answer",
    "Ask",
    "Closing",
    "Dead",
    "DeadJob",
    "Deads",
    "Done",
    "Fail",
    "GiveBack",
    "Given",
    "Look",
    "Put",
    "Refused",
    "Report",
    "Request",
    "Response",
    "Revive",
    "Revoked",
    "Settled",
    "Unask",
    "Withdraw",
    "WorkOn",
    "decode",
    "encode",
    "format",
    "name",
]


class _Message(msgspec.Struct, array_like=True, gc=False):
    pass


class Put(_Message, tag=1):
    """Put a job in: an `Accepted` follows when there is room and it is safe, or a `Refused`."""

    id: int
    body: bytes
    priority: int = 0
    ttl_s: float | None = None


class Withdraw(_Message, tag=2):
    """Forget a `Put` that was not accepted yet."""

    id: int


class Ask(_Message, tag=3):
    """Give me so many more jobs."""

    jobs: int


class Unask(_Message, tag=4):
    """Give me so many fewer jobs, if they are not on their way."""

    jobs: int


class Done(_Message, tag=5):
    """A job is done; a `Settled` follows unless the id is 0."""

    id: int
    job: int


class Fail(_Message, tag=6):
    """A job could not be done; a `Settled` follows unless the id is 0."""

    id: int
    job: int
    reason: str = ""


class GiveBack(_Message, tag=7):
    """A job was not begun, and is for somebody else."""

    job: int


class Look(_Message, tag=8):
    """A `Report` follows."""

    id: int


class Dead(_Message, tag=9):
    """A `Deads` follows, with at most so many jobs."""

    id: int
    jobs: int


class Revive(_Message, tag=10):
    """Give a dead job all its attempts again, or forget it; a `Settled` follows."""

    id: int
    job: int
    forget: bool = False


class WorkOn(_Message, tag=11):
    """I work on at most so many of the jobs that I have at a time: on those that came first.

    Who does not say so may have begun with all that it has.
    """

    jobs: int


class Accepted(_Message, tag=33):
    """The job is in."""

    id: int


class Refused(_Message, tag=34):
    """The request makes no sense; or (is_full) the journal has no room for it now."""

    id: int
    reason: str
    is_full: bool = False


class Given(_Message, tag=35):
    """Work on this."""

    job: int
    body: bytes
    priority: int
    attempt: int


class Settled(_Message, tag=36):
    """It was so, or (False) the job is not the worker's any more."""

    id: int
    held: bool


class Report(_Message, tag=37):
    """How the queue is."""

    id: int
    numbers: dict[str, int]


class DeadJob(msgspec.Struct, array_like=True, gc=False):
    """One dead job."""

    job: int
    body: bytes
    priority: int
    attempts: int
    death: str
    reason: str


class Deads(_Message, tag=38):
    """The dead jobs, oldest first."""

    id: int
    jobs: list[DeadJob]


class Revoked(_Message, tag=39):
    """Do not begin with this job: it is for others."""

    job: int


class Closing(_Message, tag=40):
    """I take in nothing else, but what becomes of jobs that are begun.

    What I have not answered by now I did not do. Give back what is not begun.
    """


Request = Put | Withdraw | Ask | Unask | WorkOn | Done | Fail | GiveBack | Look | Dead | Revive
Answer = Accepted | Refused | Settled | Report | Deads
Response = Answer | Given | Revoked | Closing

name: Final = "queue"
format: Final = "msgpack"  # noqa: A001 - the contract's word
encode = msgpack.encode
_decoder: msgspec.msgpack.Decoder[Request | Response] = msgspec.msgpack.Decoder(
    Request | Response,
    ext_hook=msgpack.refuse_ext,
)


def decode(buffer: Any) -> Request | Response:
    """The message in a buffer."""
    return _decoder.decode(buffer)
