"""Messages with types: an account in a child process that takes only proper requests.

Run it with ``python typed_messages.py``. `aioipc.codecs.typed` decodes into msgspec Structs and
refuses what does not fit, before your code sees it. On the wire it is plain msgpack, so the other
side may as well be untyped.
"""

import asyncio
import os
import sys

import msgspec

import aioipc


class Deposit(msgspec.Struct, tag=True):
    """Put money in."""

    cents: int


class Balance(msgspec.Struct, tag=True):
    """Ask how much there is."""


class Answer(msgspec.Struct, tag=True):
    """What the account says to every request."""

    cents: int
    error: str = ""


CODEC = aioipc.codecs.typed(Deposit | Balance | Answer)


async def keep_account(address: str) -> None:
    """The child: keep an account until the parent has finished."""
    cents = 0
    async with aioipc.connect(address, codec=CODEC) as channel:
        while True:
            error = ""
            try:
                match await channel.receive():
                    case Deposit(cents=more):
                        cents += more
                    case Balance():
                        pass
                    case other:
                        error = f"{other} is no request"
            except aioipc.DecodeError as misfit:  # that message is gone, the next one comes
                error = str(misfit)
            except aioipc.EndOfStream:
                return
            await channel.send(Answer(cents, error))


async def main() -> None:
    """The parent: start the child at the other end of a pair, and bank."""
    ours, theirs = aioipc.pair("unix", codec=CODEC)
    address, fds = theirs.detach()
    child = await asyncio.create_subprocess_exec(sys.executable, __file__, address, pass_fds=fds)
    for fd in fds:
        os.close(fd)  # the child has its own copies
    requests = [Deposit(500), Deposit(250), {"type": "Deposit", "cents": "a lot"}, Balance()]
    async with ours as account:
        for request in requests:
            await account.send(request)
            answer = await account.receive()
            print(f"{request}\n    {answer.cents} cents {answer.error}")
    print(f"the child ended with exit status {await child.wait()}")


if __name__ == "__main__":
    aioipc.run(keep_account(sys.argv[1]) if len(sys.argv) > 1 else main())
