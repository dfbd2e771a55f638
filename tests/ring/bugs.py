"""Bugs that somebody could have written into ring.h, and which program notices them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.verify.build import Mutation
from tests.verify.checks import Check, Options
from tests.verify.kinds import bugs_of, lost_wakeups

NEAR_2_32 = 0xFFFFFFC0

# A stream hides a lost wake-up, because its next message rings again. So one hunt has nothing to
# send until the last message was taken, and the other next to no room.
HUNTS: dict[str, Options] = {
    "empty": {"in_step": 1, "spin": 0, "max_bytes": 64},
    "full": {"capacity": 64, "spin": 0},
}

_COPIES: Options = {"mode": "copy", "records": 20_000, "start": NEAR_2_32}


def bugs() -> Iterator[Check]:
    """A check for each bug."""
    yield from _wrong_orders()
    yield from _races()
    yield from _lost_wakeups()
    yield from _lies_believed()
    yield from _torn_records()


# --- steps in the wrong order, or left out ------------------------------------------------------

_WRONG_ORDERS = {
    "publish-looks-first": Mutation(
        """    RING_STORE(&producer->ring.shared->tail, tail);
    producer->published = tail;
    AIOIPC_CRASHPOINT(publish_stored);
    bool wake = ring_take_consumer(producer);
""",
        """    bool wake = ring_take_consumer(producer);
    RING_STORE(&producer->ring.shared->tail, tail);
    producer->published = tail;
""",
    ),
    "retire-looks-first": Mutation(
        """    RING_STORE(&shared->head, head);
    consumer->retired = head;
    AIOIPC_CRASHPOINT(retire_stored);
    uint64_t wanted = RING_LOAD(&shared->p_wait);
""",
        """    uint64_t wanted = RING_LOAD(&shared->p_wait);
    RING_STORE(&shared->head, head);
    consumer->retired = head;
""",
    ),
    "arm-looks-first": Mutation(
        """    RING_STORE(&shared->c_wait, 1);
    AIOIPC_CRASHPOINT(arm_stored);
    if (ring_readable(consumer)) {
""",
        """    bool readable = ring_readable(consumer);
    RING_STORE(&shared->c_wait, 1);
    if (readable) {
""",
    ),
    "arm-does-not-retire": Mutation(
        "    if (ring_retire(consumer) == RING_WAKE)\n        return RING_WAKE;\n", ""
    ),
    "wait-does-not-publish": Mutation(
        "    if (ring_publish(producer) == RING_WAKE)\n        return RING_WAKE;\n", ""
    ),
    "end-does-not-look": Mutation(
        "return ring_readable(consumer) ? RING_RETRY : RING_END;", "return RING_END;"
    ),
    "close-rings-nobody": Mutation(
        "    AIOIPC_CRASHPOINT(close_stored);\n    bool wake = ring_take_consumer(producer);",
        "    bool wake = 0;",
    ),
    "sleeper-not-taken": Mutation("&& RING_SWAP(&shared->p_wait, 0) != 0", "&& 0"),
}


_WRONG_RECALLS = {
    "begin-looks-first": Mutation(
        """    RING_STORE(&consumer->ring.shared->begun, number);
    uint64_t recalled = RING_LOAD(&consumer->ring.shared->recalled);
""",
        """    uint64_t recalled = RING_LOAD(&consumer->ring.shared->recalled);
    RING_STORE(&consumer->ring.shared->begun, number);
""",
    ),
    "recall-looks-first": Mutation(
        """    RING_STORE(&producer->ring.shared->recalled, first << 32 | (end & UINT32_MAX));
    return RING_LOAD(&producer->ring.shared->begun);
""",
        """    uint64_t begun = RING_LOAD(&producer->ring.shared->begun);
    RING_STORE(&producer->ring.shared->recalled, first << 32 | (end & UINT32_MAX));
    return begun;
""",
    ),
    "recall-does-not-wrap": Mutation(
        "(uint32_t)number - first >= (uint32_t)recalled - first",
        "(uint32_t)number < first || (uint32_t)number >= (uint32_t)recalled",
    ),
}


def _wrong_orders() -> Iterator[Check]:
    for name, mutation in _WRONG_ORDERS.items():
        is_about_batches = name in {"arm-does-not-retire", "wait-does-not-publish"}
        modes: Options = {"send": "batch", "receive": "batch"} if is_about_batches else {}
        yield Check(
            f"bug-{name}",
            "interleave.c",
            "some interleaving goes wrong",
            {"records": 5 if is_about_batches else 3, "works": 20, "seed": 1, **modes},
            mutation=mutation,
            symptom="sleeps for ever|messages|the way",
        )
    for name, mutation in _WRONG_RECALLS.items():
        yield Check(
            f"bug-{name}",
            "recall.c",
            "some interleaving goes wrong",
            {"tasks": 4, "works": 30},
            mutation=mutation,
            symptom="taken back",
        )


# --- orders that are too weak -------------------------------------------------------------------


def _relaxed(before: str, access: str, after: str) -> Mutation:
    """Relax one access; what stands around it tells it from others."""
    name, arguments = access.split("(", 1)
    function = {"RING_LOAD": "atomic_load_explicit", "RING_STORE": "atomic_store_explicit"}[name]
    relaxed = f"{function}({arguments.rstrip(')')}, memory_order_relaxed)"
    return Mutation(before + access + after, before + relaxed + after)


_RELAXED = {
    "tail-stored-relaxed": _relaxed("", "RING_STORE(&producer->ring.shared->tail, tail)", ";"),
    "tail-loaded-relaxed": _relaxed("tail = ", "RING_LOAD(&consumer->ring.shared->tail)", ";"),
    "head-stored-relaxed": _relaxed("", "RING_STORE(&shared->head, head)", ";"),
    "head-loaded-relaxed": _relaxed(
        "head = ", "RING_LOAD(&producer->ring.shared->head)", ";\n    if (head % 8"
    ),
}


def _races() -> Iterator[Check]:
    kind = Check(
        "bug",
        "threads.c",
        "ThreadSanitizer reports it",
        {**_COPIES, "max_bytes": 64, "spin": 10_000},
        sanitizer="thread",
        symptom="data race",
    )
    return bugs_of(kind, _RELAXED)


# --- somebody is not woken ----------------------------------------------------------------------

_SILENT = {
    "publish-rings-nobody": (
        "empty",
        Mutation("return RING_LOAD(&shared->c_wait) != 0 &&", "return 0 &&"),
    ),
    "arm-does-not-look": ("empty", Mutation("if (ring_readable(consumer)) {", "if (0) {")),
    "retire-rings-nobody": (
        "full",
        Mutation("bool wake = enough &&", "bool wake = 0 && enough &&"),
    ),
    "wait-does-not-look": (
        "full",
        Mutation("    if (ring_free(producer) < producer->needed)\n", ""),
    ),
}


def _lost_wakeups() -> Iterator[Check]:
    claim = "the sleeper's tripwire reports it"
    kind = Check("bug", claim=claim, symptom="lost wake-up")
    return lost_wakeups(kind, HUNTS, _SILENT)


# --- hostile memory is believed -----------------------------------------------------------------

_FETCHED_TWICE = Mutation(
    "(RingRecord){at + RING_HEADER, length, tag}",
    "(RingRecord){at + RING_HEADER, (uint32_t)ring_fetch_header(at), tag}",
)
_UNCHECKED = {
    "record-over-the-end": Mutation("|| span > ring_room(&consumer->ring, consumer->cursor))", ")"),
    "record-beyond-tail": Mutation("span > consumer->tail_seen - consumer->cursor", "0"),
    "record-too-long": Mutation("length <= ring_max_record(&consumer->ring) && ", ""),
    "tail-not-checked": Mutation("|| used > consumer->ring.capacity", ""),
    "head-not-checked": Mutation("|| head - producer->head_seen >", "|| 0 >"),
}


def _lies_believed() -> Iterator[Check]:
    yield Check(
        "bug-header-fetched-twice",
        "fuzz.c",
        "the other thread gets a lie through between the fetches",
        {"what": "mutator", "rounds": 100_000_000},
        sanitizer="address",
        mutation=_FETCHED_TWICE,
        symptom="FAILED|AddressSanitizer",
    )
    kind = Check(
        "bug",
        "fuzz.c",
        "a lie gets through",
        {"what": "headers", "rounds": 5_000_000},
        sanitizer="address",
        symptom="FAILED|AddressSanitizer",
    )
    yield from bugs_of(kind, _UNCHECKED)


# --- records come into being too early, or end too early ----------------------------------------

_LEASES_IGNORED = Mutation(
    "        if (span->is_open)\n            return span->begin;\n", "        (void)span;\n"
)
_SHOWN_TOO_EARLY = Mutation(
    "    AIOIPC_CRASHPOINT(claim_begun);",
    "    RING_STORE(&ring->shared->tail, producer->cursor);\n    AIOIPC_CRASHPOINT(claim_begun);",
)
_TORN = "other bytes|length|answer == RING"
"""Or the one side is where the other cannot have been, and gets no answer but that."""


def _torn_records() -> Iterator[Check]:
    yield Check(
        "bug-leases-ignored",
        "threads.c",
        "other bytes come",
        {**_COPIES, "mode": "lease"},
        mutation=_LEASES_IGNORED,
        symptom=_TORN,
    )
    yield Check(
        "bug-leases-ignored-by-the-dead",
        "kill.c",
        "what a dead consumer left is not what it had",
        {"victim": "consumer", "at": "borrow_leased", "kills": 50},
        mutation=_LEASES_IGNORED,
        symptom="unconsumed|other bytes",
    )
    yield Check(
        "bug-shown-too-early",
        "kill.c",
        "a torn record is seen",
        {"victim": "producer", "at": "claim_begun", "kills": 50},
        mutation=_SHOWN_TOO_EARLY,
        symptom=_TORN,
    )
