"""The rules that streams, channels and transports keep, as functions that anybody can run.

Each rule is a small async function whose argument opens two connected ends, and which fails with
an AssertionError, or with the exception that ought not to have come. aioipc's own tests run them
over every transport; run them over yours. docs/testing.md shows how.

Besides: `faulty_pair`, channels over a connection that tears, delays and breaks where you say, and
`aioipc.testing.plugin` for pytest.
"""

from aioipc.testing.byte_streams import STREAM_RULES
from aioipc.testing.byte_transports import TRANSPORT_RULES
from aioipc.testing.channels import CHANNEL_RULES, ONE_WAY_RULES
from aioipc.testing.faults import Faults, faulty_pair, faulty_streams, faulty_transports
from aioipc.testing.messages import MESSAGE_RULES, ONE_WAY_MESSAGE_RULES
from aioipc.testing.residue import Snapshot, residue, tasks_left

__all__ = [
    "CHANNEL_RULES",
    "MESSAGE_RULES",
    "ONE_WAY_MESSAGE_RULES",
    "ONE_WAY_RULES",
    "STREAM_RULES",
    "TRANSPORT_RULES",
    "Faults",
    "Snapshot",
    "faulty_pair",
    "faulty_streams",
    "faulty_transports",
    "residue",
    "tasks_left",
]
