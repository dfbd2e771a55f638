"""Bugs that somebody could have written into broadcast.h, and which program notices them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ring.build import BROADCAST, Mutation
from tests.ring.checks import Check, Options

NEAR_2_64 = 0xFFFFFFFFFFFFFFC0

# A stream hides a lost wake-up, because its next message rings again. So one hunt has nothing to
# send until the last message was taken, and the other next to no room.
HUNTS: dict[str, Options] = {
    "empty": {"in_step": 1, "batch": 1, "spin": 0, "max_bytes": 64, "holding": 7},
    "full": {"capacity": 256, "spin": 0, "holding": 7},
}

OVERRUNS: Options = {"records": 100_000, "holding": 1, "lag": 50, "start": NEAR_2_64}
"""Readers that are overrun again and again, beside one that is not."""


def bugs() -> Iterator[Check]:
    """A check for each bug."""
    yield from _overruns()
    yield from _lost_wakeups()
    yield from _races()
    yield from _deaths()
    yield from _lies_believed()


# --- what is written over ------------------------------------------------------------------------

_OVERRUN = {
    "copy-not-checked": Mutation(
        """    if (!cast_is_whole(reader, record->position))
        return false;
    reader->cursor =""",
        "    reader->cursor =",
    ),
    "header-not-checked": Mutation(
        """    if (!cast_is_whole(reader, reader->cursor))
        return CAST_AGAIN;
""",
        "",
    ),
    "floor-not-raised": Mutation("    RING_STORE(&writer->shared->floor, position | era);\n", ""),
    "holders-ignored": Mutation(
        "if (tag != RING_PAD && (writer->blocker", "if (0 && (writer->blocker"
    ),
    "one-count": Mutation("page->passed[floor & 1]", "page->passed[0]"),
    "counted-from-the-beginning": Mutation(
        "    reader->taken = passed;\n", "    reader->taken = 0;\n"
    ),
    "lost-ones-not-counted": Mutation("    reader->taken = passed;\n", ""),
    "taken-not-counted": Mutation("    reader->taken++;\n", ""),
    "retired-before-copying": Mutation(
        "    *record = (CastRecord){reader->cursor, at + 1",
        "    RING_STORE(&reader->page->cursor, reader->cursor + span);\n"
        "    *record = (CastRecord){reader->cursor, at + 1",
    ),
}


def _overruns() -> Iterator[Check]:
    for name, mutation in _OVERRUN.items():
        yield Check(
            f"cast-bug-{name}",
            "threads.c",
            "other bytes, another length, or one message too many or too few",
            OVERRUNS,
            mutation=mutation,
            symptom="other bytes|length|lost|took|ends before|fault",
            subject=BROADCAST,
        )


# --- lost wake-ups -------------------------------------------------------------------------------

_SILENT = {
    "publish-looks-first": (
        "empty",
        Mutation(
            """        RING_STORE(&writer->shared->tail, writer->cursor);
        writer->published = writer->cursor;
        AIOIPC_CRASHPOINT(publish_stored);
    }
    CastAnswer answer = cast_take_sleepers(writer, writer->fresh, bells);
""",
            """    }
    CastAnswer answer = cast_take_sleepers(writer, writer->fresh, bells);
    AIOIPC_CRASHPOINT(publish_stored);
    RING_STORE(&writer->shared->tail, writer->cursor);
    writer->published = writer->cursor;
""",
        ),
    ),
    "arm-does-not-look": ("empty", Mutation("    if (cast_readable(reader)) {", "    if (0) {")),
    "only-one-is-woken": (
        "empty",
        Mutation(
            "                answer = CAST_WAKE;\n",
            "                answer = CAST_WAKE;\n                return answer;\n",
        ),
    ),
    "flag-taken-without-a-bell": (
        "empty",
        Mutation("                bells[word] |= (uint64_t)1 << bit;\n", ""),
    ),
    "retire-looks-first": (
        "full",
        Mutation(
            """    RING_STORE(&page->cursor, reader->cursor);
    reader->retired = reader->cursor;
    AIOIPC_CRASHPOINT(retire_stored);
    uint64_t wanted = RING_LOAD(&page->wanted);
""",
            """    uint64_t wanted = RING_LOAD(&page->wanted);
    AIOIPC_CRASHPOINT(retire_stored);
    RING_STORE(&page->cursor, reader->cursor);
    reader->retired = reader->cursor;
""",
        ),
    ),
    "wait-does-not-look": (
        "full",
        Mutation(
            "    if (cast_holds(writer, slot)"
            " && cast_is_before(seat->cursor_seen, writer->blocked))"
            "\n        return CAST_SLEEP;",
            "    return CAST_SLEEP;",
        ),
    ),
    "arm-does-not-retire": (
        "empty",
        Mutation(
            "    if (cast_retire(reader) == CAST_WAKE)\n        return CAST_WAKE;\n"
            "    AIOIPC_CRASHPOINT(arm_begun);\n",
            "",
        ),
    ),
}


def _lost_wakeups() -> Iterator[Check]:
    for name, (hunt, mutation) in _SILENT.items():
        yield Check(
            f"cast-bug-{name}",
            "threads.c",
            "the sleeper's tripwire reports it, or the writer's, who waits for it",
            {**HUNTS[hunt], "records": 1_000_000, "delay_one_in": 50, "patience_ms": 100},
            mutation=mutation,
            symptom="lost wake-up|nobody takes",
            subject=BROADCAST,
        )


# --- races ---------------------------------------------------------------------------------------


def _races() -> Iterator[Check]:
    plain = {
        "data-not-atomic": Mutation(
            "#define CAST_READ(word) atomic_load_explicit((word), memory_order_acquire)",
            "#define CAST_READ(word) (*(const uint64_t *)(word))",
        ),
        "tail-relaxed": Mutation(
            "        RING_STORE(&writer->shared->tail, writer->cursor);",
            "        *(volatile uint64_t *)&writer->shared->tail = writer->cursor;",
        ),
    }
    for name, mutation in plain.items():
        yield Check(
            f"cast-bug-{name}",
            "threads.c",
            "ThreadSanitizer reports it",
            {"records": 50_000, "lag": 200},
            sanitizer="thread",
            mutation=mutation,
            symptom="data race",
            subject=BROADCAST,
        )


# --- death ---------------------------------------------------------------------------------------


def _deaths() -> Iterator[Check]:
    yield Check(
        "cast-bug-count-after-floor",
        "kill.c",
        "a writer that dies between the two leaves a wrong count",
        {"victim": "writer", "at": "floor_raised", "kills": 200},
        mutation=Mutation(
            "    cast_count(writer, position);\n",
            "    cast_count(writer, position);\n"
            "    RING_STORE(&writer->shared->floor, position | era);\n"
            "    AIOIPC_CRASHPOINT(floor_raised);\n",
        ),
        symptom="other bytes|length|lost|took|knows|fault",
        subject=BROADCAST,
    )
    yield Check(
        "cast-bug-shown-too-early",
        "kill.c",
        "a torn record is seen",
        {"victim": "writer", "at": "put_begun", "kills": 200},
        mutation=Mutation(
            "    AIOIPC_CRASHPOINT(put_begun);",
            "    RING_STORE(&writer->shared->tail, writer->cursor + span);\n"
            "    AIOIPC_CRASHPOINT(put_begun);",
        ),
        symptom="other bytes|length|lost|took|fault",
        subject=BROADCAST,
    )


# --- hostile memory is believed ------------------------------------------------------------------

_UNCHECKED = {
    "record-over-the-end": Mutation("|| span > room\n", "\n"),
    "record-too-long": Mutation(
        "        || (tag != RING_PAD && length > cast_max_record(geometry)))", "        )"
    ),
    "mask-over-the-end": Mutation(
        "tag != RING_PAD && room >= cast_header_bytes(geometry)", "tag != RING_PAD"
    ),
    "floor-not-checked": Mutation("|| tail - position > reader->geometry.capacity", ""),
}


def _lies_believed() -> Iterator[Check]:
    for name, mutation in _UNCHECKED.items():
        yield Check(
            f"cast-bug-{name}",
            "fuzz.c",
            "a lie gets through",
            {"what": "writer", "rounds": 20_000},
            sanitizer="address",
            mutation=mutation,
            symptom="FAILED|AddressSanitizer",
            subject=BROADCAST,
        )
