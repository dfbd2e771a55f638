# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=False
"""One loop's pace: when an operation yields, when gathered messages leave, when to poll."""

from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from aioipc.native._view cimport fill_view

from aioipc.errors import IPCError

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    enum:
        POLLIN
        POLLOUT
    int poll(pollfd*, unsigned long, int)

cdef extern from *:
    """
    /* Between two looks: where both processors are threads of one core, the other one, which may be
       working on the answer, has the core meanwhile. */
    static inline void aioipc_relax(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ volatile("isb"); /* `yield` does nothing on most of them */
    #endif
    }
    """
    void relax "aioipc_relax"() nogil

# Fairness: one checkpoint per so many operations or nanoseconds, whichever is first. asyncio runs
# what is ready before what a descriptor has become ready for, and that before the task which it
# wakes: others would wait for three turns. So the loop turns as often after one that took long.
cdef enum:
    OPS_PER_TURN = 512
    OPS_PER_CLOCK = 32
    TURNS_AFTER_A_LONG_ONE = 3
    MOST_POLLED = 8              # more sleepers than this: the loop is the better poller
    MOST_TURNS_FIRST = 8
cdef int64_t TURN_NS = 100_000
cdef int64_t LONG_TURN_NS = 50_000
cdef int64_t LONGEST_TURN_NS = 1_000_000  # after more the task has waited for something else, or computed

# Adaptive polling (measured by benchmarks/round_trip.py; see docs/architecture.md).
cdef int64_t FULL_BUDGET_NS = 75_000
cdef int64_t LEAST_BUDGET_NS = 10_000
cdef int64_t FIRST_SLICE_NS = 10_000  # of a poll, before the loop turns once more
cdef int64_t BUSY_SLICE_NS = 100_000
cdef int64_t SHORT_WAIT_NS = 200_000
cdef int64_t CROWDED_NS = 20_000
cdef int MISSES_BEFORE_SKIP = 3
cdef int MOST_SKIPPED_EXPONENT = 10
cdef int MOST_EXCUSES = 16
cdef int NEEDLESS_BEFORE_FEWER = 16  # a turn takes one or two microseconds, an early poll all of its budget

NO_FDS = ()


cdef class PollBudget:
    """How long the next wait polls before it sleeps: pure arithmetic, no clock.

    Two sleeps in a row that end within 200 us give a budget of 75 us. A hit keeps it, a
    miss halves it, a long sleep takes it away. After three misses in a row 2**n waits
    are not polled at all, so that two processes on one CPU pay next to nothing for
    polling that cannot succeed.
    """

    def __init__(self, bint enabled=True):
        self.enabled = enabled

    cdef int64_t c_next_ns(self) noexcept:
        if self.budget_ns == 0:
            return 0
        if self.skip > 0:
            self.skip -= 1
            return 0
        return self.budget_ns

    cdef void c_hit(self) noexcept:
        self.misses = 0
        self.exponent = 0
        self.excuses = 0

    cdef void c_miss(self) noexcept:
        self.budget_ns //= 2
        if self.budget_ns < LEAST_BUDGET_NS:
            self.budget_ns = 0
        self.misses += 1
        if self.misses >= MISSES_BEFORE_SKIP:
            self.misses = 0
            self.exponent = min(self.exponent + 1, MOST_SKIPPED_EXPONENT)
            self.skip = 1 << self.exponent

    cdef void c_blocked(self, int64_t ns) noexcept:
        if not self.enabled:
            return
        if ns > SHORT_WAIT_NS:
            self.budget_ns = 0
            self.short_waits = 0
            return
        self.short_waits += 1
        if self.short_waits >= 2:
            self.budget_ns = FULL_BUDGET_NS

    cdef bint c_is_due(self) noexcept:
        """Whether the next wait polls."""
        return self.budget_ns > 0 and self.skip == 0

    cdef void c_excuse(self) noexcept:
        """The last miss is not to count; unless there were many, or it polls for ever."""
        if self.excuses < MOST_EXCUSES:
            self.excuses += 1
            self.misses = 0
            self.skip = 0

    def next_ns(self):
        """Nanoseconds that the wait which begins now may poll; 0 means sleep at once."""
        return self.c_next_ns()

    def hit(self):
        """The poll found something."""
        self.c_hit()

    def miss(self):
        """The poll found nothing."""
        self.c_miss()

    def blocked(self, int64_t ns):
        """A wait slept and was woken after ``ns`` nanoseconds."""
        self.c_blocked(ns)

    def excuse(self):
        """The last miss is not to count: the poll was early."""
        self.c_excuse()


cdef class TurnsFirst:
    """How often the loop turns before a wait for a peer polls: pure arithmetic.

    A poll holds up the tasks of its own loop. Where one of them has to run before there can be
    an answer, because it is what sends the question, a poll is early. Each early poll makes it one
    turn more, and many waits in whose turns nothing was sent make it one less.
    """

    cdef void c_early(self) noexcept:
        self.turns = min(self.turns + 1, MOST_TURNS_FIRST)
        self.needless = 0

    cdef void c_needless(self) noexcept:
        self.needless += 1
        if self.needless >= NEEDLESS_BEFORE_FEWER:
            self.turns = max(self.turns - 1, 0)
            self.needless = 0

    def early(self):
        """A poll found nothing, and something was sent to the peer only after it."""
        self.c_early()

    def turned_needlessly(self):
        """The loop turned first, and nothing was sent."""
        self.c_needless()


cdef class Borrowed:
    """A message that still lies where it arrived, as a buffer."""

    def __getbuffer__(self, Py_buffer* view, int flags):
        fill_view(view, self, <void*>self.payload, self.length, False, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.views -= 1
        if self.ended and self.views == 0:
            self.c_give_back()

    cdef bint c_end(self) except -1:
        """Give it back once no view of it is left: whether that is now."""
        if not self.ended:
            self.ended = True
            if self.views == 0:
                self.c_give_back()
        return self.views == 0

    cdef int c_give_back(self) except -1:
        """Nobody looks at it any more, and it was ended."""
        raise NotImplementedError


cdef class MessagePort:
    """What `ChannelCore` drives: the native form of the MessageTransport contract."""

    def __cinit__(self):
        self.called_by_loop = True
        self.counters = &self.own
        self.turns_first = TurnsFirst()

    def share(self, Row row not None):
        """Count in a row that others can read, from here on."""
        if self.row is None and row.shared is not NULL:
            row.c_counters()[0] = self.own
            self.row = row
            self.counters = row.c_counters()

    def unshare(self):
        """Give the row back and count on alone. Idempotent."""
        if self.row is not None:
            self.own = self.counters[0]
            self.counters = &self.own
            self.row.close()
            self.row = None

    cdef object c_receive(self):
        """The next message as bytes, or None. Raises the ending."""
        raise NotImplementedError

    cdef Py_ssize_t c_receive_more(self, list messages, Py_ssize_t most) except -1:
        """Append messages that are there, as bytes, and return how many.

        As many as can be had without trouble and do not take long: what `c_receive` has to say,
        it says then.
        """
        return 0

    cdef int c_send(self, object parts, object fds) except -1:
        """Accept one message whole (ACCEPTED) or not at all (NO_ROOM)."""
        raise NotImplementedError

    cdef Py_ssize_t c_send_more(self, list messages, Py_ssize_t begin, Py_ssize_t end) except -1:
        """Accept messages from ``begin`` on, within a batch, and return how many.

        As many as can be had without trouble and do not take long: what `c_send` has to say of
        the next one, it says then.
        """
        return 0

    cdef int c_flush(self) except -1:
        """Push out what was gathered: 1 when all of it left, 0 when some remains."""
        return 1

    cdef bint c_settled(self) noexcept:
        """Whether what was pushed out can be seen by the peer, and is not behind an open slot."""
        return True

    cdef bint c_must_stop(self) noexcept:
        """Whether to say that there is nothing, though there is more to do: the turn is over.

        Who waits for this port then does not poll, nor sleep.
        """
        if self.pacer is None or not self.pacer.c_overdue():
            return False
        self.has_stopped = True
        return True

    cdef int c_own_rest(self) except -1:
        """Copy what is still read from the caller's memory."""
        return 0

    cdef int c_begin_batch(self) except -1:
        """Gather from here on, whether or not this turn wrote already."""
        return 0

    cdef int c_check_size(self, Py_ssize_t size) except -1:
        """Raise FrameTooLarge if a message of this size cannot be sent."""
        return 0

    cdef object c_reserve(self, Py_ssize_t size):
        """Room for a message, as a writable buffer that `c_commit` or `c_cancel` ends.

        None if there is none now; False if this port has no such room, or not so much in one
        piece: the message is then written elsewhere and sent like any other.
        """
        return False

    cdef int c_commit(self, object lease, Py_ssize_t size) except -1:
        """Send what was written into reserved room."""
        raise NotImplementedError

    cdef int c_cancel(self, object lease) except -1:
        """Give reserved room back."""
        raise NotImplementedError

    cdef object c_lend(self, Py_ssize_t size):
        """Memory for a message, which the peer looks at: a loan, whose ``buffer`` is written to.

        It is sent by `c_send_lent`, or ended by its ``give_back``. None if there is none now;
        False if there is no such memory between these two.
        """
        return False

    cdef int c_send_lent(self, object loan, Py_ssize_t size) except -1:
        """Send what was written there: ACCEPTED or NO_ROOM, as `c_send`."""
        raise NotImplementedError

    cdef object c_borrow(self):
        """The next message where it lies (`Borrowed`), or as bytes, or None. Raises the ending."""
        return self.c_receive()

    cdef bint c_takes_fds(self) except -1:
        """Whether descriptors travel, as far as is known before the peer's HELLO."""
        return False

    def take_fds(self, int most=-1):
        """Hand over the descriptors that came with the message received last, or the first."""
        return []

    def on_readable(self, callback):
        """Call ``callback`` once when a receive may make progress."""
        raise NotImplementedError

    def on_writable(self, callback):
        """Call ``callback`` once when a send may make progress."""
        raise NotImplementedError

    cdef int c_poll_fd(self, bint for_room) noexcept:
        """The descriptor to poll for writing or reading, -1 if there is none."""
        return -1

    cdef int c_begin_poll(self, bint for_room) except -1:
        """Prepare for `c_poll_look` without the GIL; 0 if this port cannot do it."""
        return 0

    cdef bint c_poll_look(self, bint for_room) noexcept nogil:
        """Look once, without the GIL, whether a send or a receive would make progress."""
        return False

    cdef bint c_begin(self, uint64_t task) noexcept:
        """Tell the peer that a task of its begins; whether it was not taken back before."""
        return True

    def recall(self, first, end):
        """Take back the tasks of these numbers, up to ``end``, that the peer has not begun.

        Returns:
            The last one that may have begun.
        """
        return end


cdef class Pacer:
    """The pace of one event loop."""

    def __init__(self, loop, bint polling):
        self.loop = loop
        self.call_soon = loop.call_soon
        self.budget = PollBudget(polling)
        self.turn = 1
        self.dirty = []
        self.waiting = set()
        self.end_turn_method = self.end_turn

    # Fairness

    cdef bint c_must_yield(self) noexcept:
        """The rest of `must_yield`, when it is time to look."""
        return self.ops >= OPS_PER_TURN or self.c_tired(True)

    cdef bint c_tired(self, bint regular) noexcept:
        """`c_overdue`, but looks at the clock only now and then, and after long work."""
        if not regular and self.ops < self.next_look:
            return False
        if self.c_overdue():
            self.next_look = 0  # whoever asks again is to look again
            return True
        self.next_look = min(self.ops + OPS_PER_CLOCK, OPS_PER_TURN)
        return False

    cdef bint c_overdue(self) noexcept:
        """Whether the loop has not turned for longer than is fair."""
        return self.c_left_ns() < 0

    cdef int64_t c_left_ns(self) noexcept:
        """How long this turn of the loop may still take."""
        cdef int64_t now = clock_ns()
        if self.resumed_ns == 0:
            self.resumed_ns = now
        return self.resumed_ns + TURN_NS - now

    cdef int c_turns(self) noexcept:
        """How often the loop should turn before who yields now goes on."""
        cdef int64_t worked_ns = clock_ns() - self.resumed_ns
        return TURNS_AFTER_A_LONG_ONE if LONG_TURN_NS < worked_ns < LONGEST_TURN_NS else 1

    cdef bint c_was_busy(self) noexcept:
        """Whether as many operations were made in this turn as may be."""
        return self.ops >= OPS_PER_TURN

    cdef void c_yielding(self) noexcept:
        self.yielded_ns = clock_ns()

    cdef void c_resume(self) noexcept:
        cdef int64_t now = clock_ns()
        self.crowded = self.yielded_ns != 0 and now - self.yielded_ns > CROWDED_NS
        self.yielded_ns = 0
        self.ops = 0
        self.next_look = OPS_PER_CLOCK
        self.resumed_ns = now

    # The turn: a message that finds nothing gathered is written at once, the rest of the
    # turn is gathered and leaves in one piece.

    cdef int c_begin_sending(self, MessagePort port) except -1:
        """A port sends for the first time in this turn."""
        port.turn = self.turn
        port.sends += 1
        return self.c_wrote()

    cdef int c_wrote(self) except -1:
        """A port wrote: make sure that this turn gets an end."""
        if not self.end_scheduled and not self.inside_callback:
            self.call_soon(self.end_turn_method)
            self.end_scheduled = True
        return 0

    cdef int c_gathered(self, MessagePort port) except -1:
        if not port.dirty:
            port.dirty = True
            self.dirty.append(port)
        return self.c_wrote()

    cdef int c_end_turn(self) except -1:
        self.turn += 1
        if not self.dirty:
            return 0
        ports, self.dirty = self.dirty, []
        for port in ports:
            (<MessagePort>port).dirty = False
            try:
                (<MessagePort>port).c_flush()
            except IPCError:
                pass  # each send raises it; the other ports' messages leave all the same
            except Exception as error:
                self.loop.call_exception_handler({
                    "message": "a transport failed to send what was gathered",
                    "exception": error,
                })
        return 0

    cdef int c_turned(self) except -1:
        """The loop has turned: what is done from here on counts anew."""
        self.ops = 0
        self.next_look = 0
        self.resumed_ns = 0
        return self.c_end_turn()

    def begin_turn(self):
        """Begin a turn, for who calls what does not wait while the loop stands still."""
        self.c_end_turn()

    def end_turn(self):
        """Send off what this turn gathered. Runs from ``call_soon``."""
        self.end_scheduled = False
        self.c_turned()

    # Polling

    cdef bint c_may_poll(self) except -1:
        """Whether a wait that begins now is likely to poll."""
        return self.budget.c_is_due() and not self.crowded and len(self.waiting) < MOST_POLLED

    cdef int c_wait(self, Wait* wait, MessagePort port, int polling, bint for_room) except -1:
        """What comes next for who looked and found nothing: to LOOK again, let the loop TURN, SLEEP.

        Who is to let it turn does so ``wait.turns`` times or oftener, says so to `c_has_turned`,
        looks, and asks again.
        """
        cdef int64_t budget_ns = 0
        cdef int64_t slice_ns = max(self.c_left_ns(), 0)
        cdef bint have_sent = (
            (wait.has_turned_first or wait.was_cut) and port.sends != wait.sends_before
        )
        cdef int found = 0
        wait.turns = 1
        if polling == BUSY:
            budget_ns = BUSY_SLICE_NS
        elif polling == ADAPTIVE and (have_sent or not self.crowded):
            if wait.was_cut:
                budget_ns = wait.unpolled_ns
                if have_sent:
                    port.turns_first.c_early()
            elif not wait.has_turned_first and port.turns_first.turns and self.budget.c_is_due():
                # Those run first who may have to send something before there can be an answer.
                wait.has_turned_first = True
                wait.sends_before = port.sends
                wait.turns = port.turns_first.turns
                return TURN
            else:
                budget_ns = self.budget.c_next_ns()
                slice_ns = min(slice_ns, FIRST_SLICE_NS)
        if budget_ns == 0:
            return SLEEP
        slice_ns = min(slice_ns, budget_ns)
        if slice_ns > 0:
            found = self.c_poll(port, slice_ns, for_room)
        if found == 1:
            self.budget.c_hit()
            return LOOK
        if polling == BUSY:
            return TURN  # and poll on in the next one
        if found == 0:
            wait.sends_before = port.sends
            if budget_ns > slice_ns and not wait.was_cut:
                wait.was_cut = True
                wait.unpolled_ns = budget_ns - slice_ns
                return TURN
            self.budget.c_miss()
            wait.has_missed = True
        return SLEEP

    cdef void c_has_turned(self, Wait* wait, MessagePort port) noexcept:
        """The loop has turned, as often as `c_wait` wanted."""
        if wait.has_turned_first and port.sends == wait.sends_before:
            port.turns_first.c_needless()

    cdef void c_awake(self, Wait* wait, MessagePort port) noexcept:
        """Who slept since ``wait.slept_ns`` was woken."""
        self.c_resume()
        self.budget.c_blocked(self.resumed_ns - wait.slept_ns)
        if wait.has_missed and port.sends != wait.sends_before:
            port.turns_first.c_early()
            self.budget.c_excuse()

    cdef int c_poll(self, MessagePort port, int64_t budget_ns, bint for_room) except -1:
        """Look for up to ``budget_ns`` whether ``port``, or a sleeper, can go on.

        Returns 1 when ``port`` can, 0 when nothing could, 2 when the loop should turn at
        once, because somebody else can or because there is nothing to poll.
        """
        cdef pollfd fds[MOST_POLLED + 1]
        cdef PyObject* rings[MOST_POLLED]
        cdef int count = 0, ring_count = 0, found = 0, i
        cdef bint direct = False
        cdef int64_t deadline
        cdef MessagePort other
        if len(self.waiting) > MOST_POLLED:
            return 2
        # Else one would poll for the answer to a question that was not sent yet.
        self.c_end_turn()
        direct = port.c_begin_poll(for_room) == 1
        if not direct:
            fds[0].fd = port.c_poll_fd(for_room)
            fds[0].events = POLLOUT if for_room else POLLIN
            if fds[0].fd < 0:
                return 2
            count = 1
        for item in self.waiting:
            other = <MessagePort>item
            if other is port and not for_room:
                continue
            if other.in_memory:
                rings[ring_count] = <PyObject*>other
                ring_count += 1
            else:
                fds[count].fd = other.c_poll_fd(False)
                fds[count].events = POLLIN
                count += 1
        deadline = clock_ns() + budget_ns
        with nogil:
            while found == 0:
                if direct and port.c_poll_look(for_room):
                    found = 1
                    break
                for i in range(ring_count):
                    if (<MessagePort>rings[i]).c_poll_look(False):
                        found = 2
                if count and poll(fds, count, 0) > 0:
                    found = 1 if not direct and fds[0].revents else 2
                if found or clock_ns() >= deadline:
                    break
                relax()
        self.next_look = 0
        port.counters.polls += 1
        if found == 1:
            port.counters.poll_hits += 1
        return found
