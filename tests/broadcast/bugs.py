"""Bugs that somebody could have written into broadcast.h, and which program notices them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.verify.build import BROADCAST, Mutation
from tests.verify.checks import Check, Options
from tests.verify.kinds import bugs_of, lost_wakeups

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
    yield from _wrong_orders()
    yield from _overruns()
    yield from _lost_wakeups()
    yield from _races()
    yield from _deaths()
    yield from _lies_believed()


# --- steps in the wrong order, or left out -------------------------------------------------------

_COPY_NOT_CHECKED = Mutation(
    """    if (!cast_is_whole(reader, record->position))
        return false;
    reader->cursor =""",
    "    reader->cursor =",
)
_ONLY_ONE_WOKEN = Mutation(
    "                answer = CAST_WAKE;\n",
    "                answer = CAST_WAKE;\n                return answer;\n",
)
_WRONG_ORDERS = {
    "publish-looks-first": Mutation(
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
    "flag-taken-without-a-bell": Mutation(
        "                bells[word] |= (uint64_t)1 << bit;\n", ""
    ),
    "retire-looks-first": Mutation(
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
    "arm-does-not-retire": Mutation(
        "    if (cast_retire(reader) == CAST_WAKE)\n        return CAST_WAKE;\n"
        "    AIOIPC_CRASHPOINT(arm_begun);\n",
        "",
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
    "taken-not-counted": Mutation("    reader->taken++;\n", ""),
    "retired-before-copying": Mutation(
        "    *record = (CastRecord){reader->cursor, at + 1",
        "    RING_STORE(&reader->page->cursor, reader->cursor + span);\n"
        "    AIOIPC_CRASHPOINT(retired_early);\n"
        "    *record = (CastRecord){reader->cursor, at + 1",
    ),
}


def _wrong_orders() -> Iterator[Check]:
    kind = Check(
        "cast-bug",
        "interleave.c",
        "some interleaving goes wrong",
        {"records": 4, "works": 6, "seed": 1},
        symptom="sleeps for ever|other bytes|length|lost|took|ends at|knows|fault",
        subject=BROADCAST,
    )
    yield from bugs_of(kind, _WRONG_ORDERS)
    overrun = {**kind.options, "records": 2, "prefill": 1, "holding": 0}
    yield from bugs_of(replace(kind, options=overrun), {"copy-not-checked": _COPY_NOT_CHECKED})
    two = {**kind.options, "records": 1, "readers": 2, "max_bytes": 0}
    yield from bugs_of(replace(kind, options=two), {"only-one-is-woken": _ONLY_ONE_WOKEN})


# --- what is written over ------------------------------------------------------------------------

_OVERRUN = {
    "counted-from-the-beginning": Mutation(
        "    reader->taken = passed;\n", "    reader->taken = 0;\n"
    ),
    "lost-ones-not-counted": Mutation("    reader->taken = passed;\n", ""),
}


def _overruns() -> Iterator[Check]:
    kind = Check(
        "cast-bug",
        "threads.c",
        "other bytes, another length, or one message too many or too few",
        OVERRUNS,
        symptom="other bytes|length|lost|took|ends before|fault",
        subject=BROADCAST,
    )
    return bugs_of(kind, _OVERRUN)


# --- lost wake-ups -------------------------------------------------------------------------------

_SILENT = {
    "arm-does-not-look": ("empty", Mutation("    if (cast_readable(reader)) {", "    if (0) {")),
    "wait-does-not-look": (
        "full",
        Mutation(
            "    if (cast_holds(writer, slot)"
            " && cast_is_before(seat->cursor_seen, writer->blocked))"
            "\n        return CAST_SLEEP;",
            "    return CAST_SLEEP;",
        ),
    ),
}


def _lost_wakeups() -> Iterator[Check]:
    claim = "the sleeper's tripwire reports it, or the writer's, who waits for it"
    kind = Check("cast-bug", claim=claim, symptom="lost wake-up|nobody takes", subject=BROADCAST)
    return lost_wakeups(kind, HUNTS, _SILENT)


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
    kind = Check(
        "cast-bug",
        "threads.c",
        "ThreadSanitizer reports it",
        {"records": 50_000, "lag": 200},
        sanitizer="thread",
        symptom="data race",
        subject=BROADCAST,
    )
    return bugs_of(kind, plain)


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
    "tail-not-checked": Mutation(
        "if (reader->tail_seen - reader->cursor > geometry.capacity)", "if (0)"
    ),
    "floor-not-checked": Mutation("|| tail - position > reader->geometry.capacity", ""),
}


_CURSOR_BELIEVED = {
    "walk-begins-at-the-cursor": Mutation(
        "        *position = writer->floor;\n",
        "        *position = writer->seats[slot].cursor_seen;\n"
        "        if (cast_is_before(*position, writer->floor))\n"
        "            *position = writer->floor;\n",
    ),
    "taken-ones-not-skipped": Mutation(
        "!cast_is_before(here, writer->seats[slot].cursor_seen)\n", "true\n"
    ),
}


def _lies_believed() -> Iterator[Check]:
    kind = Check(
        "cast-bug",
        "fuzz.c",
        "a lie gets through",
        {"what": "writer", "rounds": 20_000},
        sanitizer="address",
        symptom="FAILED|AddressSanitizer",
        subject=BROADCAST,
    )
    yield from bugs_of(kind, _UNCHECKED)
    by_reader: Options = {"what": "reader", "rounds": 2_000}
    yield from bugs_of(replace(kind, options=by_reader), _CURSOR_BELIEVED)
