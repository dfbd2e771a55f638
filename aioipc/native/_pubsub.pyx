# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""The straight way of a publish and of a receive; docs/pubsub-wire.md has the messages."""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from aioipc.native._broadcast cimport PUT, UNPUBLISHED, BroadcastReader, BroadcastWriter
from aioipc.native._core cimport ChannelCore
from aioipc.native._detour cimport Straight
from aioipc.native._operation cimport NEW, NOTHING, is_spare, this_thread
from aioipc.native._pacer cimport ACCEPTED, NO_FDS, Pacer
from aioipc.native._scan cimport scanner, scanner_of

from aioipc.errors import BusyError, DecodeError, EndOfStream

cdef extern from *:
    int lowest "__builtin_ctzll"(uint64_t bits)
    int PyErr_WarnEx(object, const char*, Py_ssize_t) except -1

cdef enum:
    LONG = 512                   # bytes that take a codec a time worth looking at the clock
    PASSES_PER_OPERATION = 2     # subscribers that are sent to in the time of an operation,
    OPERATIONS_PER_OFFER = 2     # where each is asked first: operations in the time of one
    # msgpack: a Publication is an array of three, and begins with its tag.
    ARRAY_OF_THREE = 0x93
    PUBLICATION = 6
    SHORT_TEXT = 0xA0            # up to 31 bytes
    TEXT_8 = 0xD9
    TEXT_16 = 0xDA
    BINARY_8 = 0xC4
    BINARY_16 = 0xC5
    BINARY_32 = 0xC6


# --- messages ---


cdef class Unpacker:
    """Makes messages of publications; of everything else another does.

    Args:
        message: The type of a message: of a topic and an object.
        codec: That of the objects.
        otherwise: Unpacks what is not written in the shortest way, or says what is wrong with it.
        max_depth: Limit of the pre-scan of msgpack and json.
        max_elements: Limit of the pre-scan of msgpack and json.
    """

    cdef object message
    cdef object decode           # None: objects are bytes
    cdef object otherwise
    cdef bint in_place
    cdef scanner scan
    cdef int max_depth
    cdef long long max_elements
    cdef str topic               # of the last message
    cdef bytes topic_text

    def __init__(self, message, codec, otherwise, *, int max_depth, long long max_elements):
        self.message = message
        self.decode = None if codec.name == "raw" else codec.decode
        self.otherwise = otherwise
        self.in_place = bool(getattr(codec, "in_place", False))
        self.scan = scanner_of(codec.format)
        self.max_depth = max_depth
        self.max_elements = max_elements
        self.topic_text = b""

    def unpack(self, buffer):
        """What a buffer holds: a message, or something else that the publisher says."""
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            found = self.c_unpack(buffer, <const unsigned char*>view.buf, view.len)
        except Exception:
            found = None
        finally:
            PyBuffer_Release(&view)
        return self.otherwise(buffer) if found is None else found

    cdef object c_unpack(self, object owner, const unsigned char* text, Py_ssize_t size):
        """A message; None if it is not so simple."""
        cdef Py_ssize_t at = 0, length = 0
        if size < 5 or text[0] != ARRAY_OF_THREE or text[1] != PUBLICATION:
            return None
        if text[2] & 0xE0 == SHORT_TEXT:
            at, length = 3, text[2] & 0x1F
        elif text[2] == TEXT_8:
            at, length = 4, text[3]
        elif text[2] == TEXT_16:
            at, length = 5, text[3] << 8 | text[4]
        if at == 0 or at + length + 2 > size:
            return None
        self.c_learn_topic(text + at, length)
        at += length
        if text[at] == BINARY_8:
            length = text[at + 1]
            at += 2
        elif text[at] == BINARY_16 and at + 3 <= size:
            length = text[at + 1] << 8 | text[at + 2]
            at += 3
        elif text[at] == BINARY_32 and at + 5 <= size:
            length = (
                <uint32_t>text[at + 1] << 24
                | text[at + 2] << 16
                | text[at + 3] << 8
                | text[at + 4]
            )
            at += 5
        else:
            return None
        if at + length != size:
            return None
        return self.message(self.topic, self.c_object(owner, text, at, length))

    cdef int c_learn_topic(self, const unsigned char* text, Py_ssize_t length) except -1:
        """Most messages are about what the one before was about."""
        if length != PyBytes_GET_SIZE(self.topic_text) or memcmp(
            text, PyBytes_AS_STRING(self.topic_text), length
        ):
            self.topic = PyUnicode_DecodeUTF8(<const char*>text, length, NULL)
            self.topic_text = PyBytes_FromStringAndSize(<const char*>text, length)
        return 0

    cdef object c_object(
        self, object owner, const unsigned char* text, Py_ssize_t at, Py_ssize_t length
    ):
        if self.scan != NULL and self.scan(
            text + at, length, self.max_depth, self.max_elements
        ) != 0:
            raise ValueError("too deep or too long: whoever is asked next says which")
        if self.in_place and length >= LONG:
            return self.decode(memoryview(owner)[at : at + length])
        value = PyBytes_FromStringAndSize(<const char*>text + at, length)
        return value if self.decode is None else self.decode(value)


cdef class Subject:
    """A topic that is published: how its messages begin, and who gets them.

    Args:
        topic: The topic.
        audience: Who gets them.
    """

    cdef bytes head
    cdef readonly Audience audience

    def __init__(self, str topic not None, Audience audience):
        text = topic.encode()
        length = len(text)
        if length < 32:
            begin = bytes((SHORT_TEXT | length,))
        elif length < 256:
            begin = bytes((TEXT_8, length))
        else:
            begin = bytes((TEXT_16, *length.to_bytes(2, "big")))
        self.head = bytes((ARRAY_OF_THREE, PUBLICATION)) + begin + text
        self.audience = audience

    def pack(self, value):
        """The message for all subscribers, of an object that is encoded."""
        return self.c_pack(value)

    cdef bytes c_pack(self, object value):
        cdef Py_buffer view
        cdef Py_ssize_t begin = PyBytes_GET_SIZE(self.head)
        cdef unsigned char* text
        cdef Py_ssize_t size
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
        try:
            size = view.len
            if size >= 1 << 32:
                raise ValueError(f"{size:,} bytes are more than msgpack can say")
            message = PyBytes_FromStringAndSize(
                NULL, begin + (2 if size < 1 << 8 else 3 if size < 1 << 16 else 5) + size
            )
            text = <unsigned char*>PyBytes_AS_STRING(message)
            memcpy(text, PyBytes_AS_STRING(self.head), begin)
            text += begin
            if size < 1 << 8:
                text[0] = BINARY_8
                text[1] = size
                text += 2
            elif size < 1 << 16:
                text[0] = BINARY_16
                text[1] = size >> 8
                text[2] = size & 0xFF
                text += 3
            else:
                text[0] = BINARY_32
                text[1] = size >> 24
                text[2] = size >> 16 & 0xFF
                text[3] = size >> 8 & 0xFF
                text[4] = size & 0xFF
                text += 5
            memcpy(text, view.buf, size)
            return message
        finally:
            PyBuffer_Release(&view)


# --- the subscriber's side ---


cdef class SubscriptionCore:
    """Receives as long as something is there.

    Args:
        channel: To the publisher.
        unpacker: For what comes by the ring.
        batch: How many messages to take before the publisher is told.
    """

    cdef ChannelCore channel
    cdef Unpacker unpacker
    cdef Py_ssize_t batch
    cdef public BroadcastReader reader
    cdef public unsigned long long received
    cdef public Py_ssize_t owed  # messages that the publisher is to be told of
    cdef Receive spare_receive   # operations that are done, to give out again
    cdef Next spare_next

    def __init__(self, ChannelCore channel not None, Unpacker unpacker not None, Py_ssize_t batch):
        channel.c_enter()
        self.channel = channel
        self.unpacker = unpacker
        self.batch = batch

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    # What the floor above fills in.

    def _receive_in_turn(self):
        """A coroutine: receive, whatever has to be done for it."""
        raise NotImplementedError

    def _judge(self, item):
        """What the caller is to see of what came by the channel, if anything."""
        raise NotImplementedError

    def _unpack(self, data):
        """A message of the ring that is not so simple."""
        raise NotImplementedError

    def receive(self):
        """Wait for the next message, or for news of lost ones.

        Raises:
            EndOfStream: The publisher finished, and everything was received.
            PeerCrashed: It died; everything that arrived was received.
            QuotaExceeded: This side fell behind, with ``when_full="disconnect"``; or it asked
                for more than the publisher gives.
            DecodeError: The message does not fit the codec; it is consumed, the others come.
            ClosedError: This side closed the subscription.
            BusyError: Another task is waiting.

        Cancellation:
            Safe: nothing is lost.
        """
        cdef Receive operation = self.spare_receive
        if is_spare(operation):
            self.spare_receive = None
        else:
            operation = Receive.__new__(Receive)
        return self.c_prepare(operation)

    def __aiter__(self):
        return self

    def __anext__(self):
        cdef Next operation = self.spare_next
        if is_spare(operation):
            self.spare_next = None
        else:
            operation = Next.__new__(Next)
        return self.c_prepare(operation)

    cdef Receive c_prepare(self, Receive operation):
        operation.state = NEW
        operation.pacer = self.channel.pacer
        operation.subscription = self
        return operation

    cdef object c_take(self):
        """The next item, or NOTHING."""
        cdef ChannelCore channel = self.channel
        channel.c_enter()
        if channel.receiver is not None:
            raise BusyError("another task is receiving from this subscription")
        if self.owed >= self.batch:
            return NOTHING
        if self.reader is not None:
            return self.c_take_from_ring()
        try:
            item = channel.c_take()
        except DecodeError:
            self.c_count()
            raise
        if type(item) is self.unpacker.message:
            self.c_count()
        elif item is not NOTHING:
            item = self._judge(item)
        return NOTHING if item is None else item

    def take_from_ring(self):
        """The next message of the ring; None if there is none.

        Raises:
            RingCorrupted: The publisher broke the protocol.
            DecodeError: The message does not fit the codec; it is consumed.
        """
        item = self.c_take_from_ring()
        return None if item is NOTHING else item

    cdef object c_take_from_ring(self):
        if self.reader is None:
            return NOTHING
        data = self.reader.c_take()
        if data is None:
            return NOTHING
        self.c_count()
        if PyBytes_GET_SIZE(data) >= LONG:
            self.channel.pacer.next_look = 0
        return self.c_unpack(data)

    @property
    def is_in_debt(self):
        """Whether the publisher is to be told before anything else is taken."""
        return self.owed >= self.batch

    def count_message(self):
        """A message was taken."""
        self.c_count()

    cdef int c_count(self) except -1:
        self.received += 1
        self.owed += 1
        return 0

    cdef object c_unpack(self, bytes data):
        try:
            item = self.unpacker.c_unpack(
                data, <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
            )
            if item is not None:
                return item
        except Exception:
            pass
        return self._unpack(data)  # and say what is wrong with it


cdef class Receive(Straight):
    """``await subscription.receive()``"""

    cdef SubscriptionCore subscription

    cdef object c_go(self, PyObject** result):
        cdef SubscriptionCore subscription = self.subscription
        self.subscription = None
        item = subscription.c_take()
        if item is NOTHING:
            return subscription._receive_in_turn()
        self.c_give_back(subscription)
        Py_INCREF(item)
        result[0] = <PyObject*>item
        return None

    cdef int c_give_back(self, SubscriptionCore subscription) except -1:
        subscription.spare_receive = self
        return 0


cdef class Next(Receive):
    """``async for``"""

    cdef int c_step(self, PyObject** result) except -1:
        try:
            return Straight.c_step(self, result)
        except EndOfStream:
            raise StopAsyncIteration from None

    cdef int c_give_back(self, SubscriptionCore subscription) except -1:
        subscription.spare_next = self
        return 0


# --- the publisher's side ---


cdef class FeedCore:
    """The straight way of messages to one subscriber: by its channel, past nothing that waits.

    Args:
        channel: To the subscriber.

    Attributes:
        passes: How many more messages may go this way; the floor above decides.
        passed: How many went, since the floor above was told.
    """

    cdef ChannelCore channel
    cdef public Py_ssize_t passes
    cdef public Py_ssize_t passed

    def __init__(self, ChannelCore channel not None):
        self.channel = channel

    # What the floor above fills in.

    def has_room(self, size):
        """Whether a message of ``size`` bytes has to wait for nobody."""
        raise NotImplementedError

    cdef bint c_pass(self, bytes data) except -1:
        """Let a message leave at once: whether it did."""
        cdef ChannelCore channel = self.channel
        if self.passes <= 0:
            return False
        try:
            channel.c_enter()
            if channel.queued or channel.port.c_send(data, NO_FDS) != ACCEPTED:
                return False
        except Exception:
            return False  # who sends it next says what is wrong
        self.passes -= 1
        self.passed += 1
        channel.port.c_own_rest()
        return True


cdef class Audience:
    """Who wants one topic.

    Args:
        feeds: To all of them.
        blocking: Those of them that the publisher waits for.
    """

    cdef readonly tuple feeds
    cdef readonly tuple blocking

    def __init__(self, tuple feeds not None, tuple blocking not None):
        self.feeds = feeds
        self.blocking = blocking

    def has_room(self, size):
        """Whether a message of ``size`` bytes has to wait for none of them."""
        for feed in self.blocking:
            if not feed.has_room(size):
                return False
        return True

    cdef bint c_lets_pass(self):
        """Whether no message has to wait for any of them, as far as that is known."""
        for feed in self.blocking:
            if (<FeedCore>feed).passes <= 0:
                return False
        return True


cdef class StageCore:
    """The ring as it is written to.

    The first message of a turn of the event loop is shown at once. What follows in the same turn
    is shown together at its end, so that whoever sleeps is woken twice at most.

    Args:
        ring: What is written to; None where there is nothing to write to any more.
        call_soon: Of the loop.
        wake: Called with the slot of each subscriber that is to be woken.
    """

    cdef public BroadcastWriter ring
    cdef object call_soon
    cdef object wake
    cdef object end_turn_method
    cdef bint is_gathering

    def __init__(self, BroadcastWriter ring not None, call_soon, wake):
        self.ring = ring
        self.call_soon = call_soon
        self.wake = wake
        self.end_turn_method = self.end_turn

    # What the floor above fills in.

    def _check_open(self):
        """Raise because there is no ring."""
        raise NotImplementedError

    def put(self, bytes data not None, bytes mask not None):
        """Send a message to whom it is for; else the slot of who holds its room."""
        cdef int slot = self.c_put(data, mask)
        return None if slot == PUT else slot

    cdef int c_put(self, bytes data, bytes mask) except -3:
        cdef int slot
        if self.ring is None:
            self._check_open()
        slot = self.ring.c_put(data, mask)
        if slot == UNPUBLISHED:
            self.c_publish()
            slot = self.ring.c_put(data, mask)
        if slot == PUT and not self.is_gathering:
            self.is_gathering = True
            self.call_soon(self.end_turn_method)
            self.c_publish()
        return slot

    def publish(self):
        """Show what was put."""
        self.c_publish()

    cdef int c_publish(self) except -1:
        cdef uint32_t word
        cdef uint64_t bells
        cdef BroadcastWriter ring = self.ring
        if ring is None or not ring.c_publish():
            return 0
        for word in range(ring.words):
            bells = ring.bells[word]
            while bells:
                self.wake(64 * word + lowest(bells))
                bells &= bells - 1
        return 0

    def end_turn(self):
        """Show what this turn gathered. Runs from ``call_soon``."""
        self.is_gathering = False
        self.c_publish()


cdef class PublisherCore:
    """Publishes straight, as long as nobody who wants a topic has to be asked first.

    By the ring that is a message for all of them at once, and nobody is looked at: for how many
    there is room is known, and the floor above tells each of them later how many there were.
    Without a ring, it is one after the other by the channels of those who keep up.

    Args:
        codec: That of the objects.
        pacer: Of the running loop.
        retained: Keeps the last messages of each topic; None where that is not wanted.
        subjects: The topics that are known, by name; the floor above adds and removes them.
        longest: How long a message may be, in bytes.

    Attributes:
        stage: The ring, if there is one.
        aboard: An audience all of which is on the ring; None if there is none.
        mask: Its members, as the ring has them.
        rides: How many messages it was sent.
        rides_left: How many more it is sure to have room for.
        longest_ride: How long one may be, in bytes.
        longest: How long a message may be, in bytes.
        published: How many messages were published.
        in_line: How many publishes wait for room.
        is_closed: Whether this side closed it.
    """

    cdef public StageCore stage
    cdef dict subjects
    cdef public object aboard
    cdef public bytes mask
    cdef public Py_ssize_t rides
    cdef public Py_ssize_t rides_left
    cdef public Py_ssize_t longest_ride
    cdef readonly Py_ssize_t longest
    cdef public unsigned long long published
    cdef public Py_ssize_t in_line
    cdef public bint is_closed
    cdef object encode           # None: objects are bytes
    cdef Pacer pacer
    cdef object retained
    cdef unsigned long thread
    cdef Publish spare           # an operation that is done, to give out again

    def __init__(
        self, codec, Pacer pacer not None, retained, dict subjects not None, *, Py_ssize_t longest
    ):
        self.encode = None if codec.name == "raw" else codec.encode
        self.pacer = pacer
        self.retained = retained
        self.subjects = subjects
        self.longest = longest
        self.thread = this_thread()

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    # What the floor above fills in.

    def _publish_otherwise(self, topic, obj, data):
        """Publish in any other way: None, or a coroutine that still has to be awaited.

        Args:
            topic: The topic.
            obj: The object.
            data: The message, if it is packed already.
        """
        raise NotImplementedError

    def publish(self, topic, obj):
        """Send an object to everybody who subscribes to a topic.

        It is encoded once. On return it has left, or waits for those who are slow. As long as a
        subscriber with ``when_full="block"`` has no room for it, it is sent to nobody.

        Raises:
            ValueError: That is no topic.
            EncodeError: The object does not fit the codec.
            FrameTooLarge: It is over ``limits.max_message_bytes``.
            QuotaExceeded: The topic is too long, or one more than can be retained.
            ClosedError: This side closed the publisher.

        Cancellation:
            Before it was sent to anybody, it is sent to nobody.
        """
        cdef Publish operation = self.spare
        if is_spare(operation):
            self.spare = None
        else:
            operation = Publish.__new__(Publish)
        operation.state = NEW
        operation.pacer = self.pacer
        operation.publisher = self
        operation.topic = topic
        operation.parts = obj
        return operation

    def _offer(self, feed, topic, data):
        """Send a message to one subscriber, or let it wait."""
        raise NotImplementedError

    def _worked(self, Py_ssize_t subscribers):
        """A message was sent to so many in this turn of the loop.

        It brings the end of the turn nearer, and no look at the clock: several messages in one
        turn are what makes one write for each subscriber.
        """
        self.c_worked(OPERATIONS_PER_OFFER * subscribers)

    cdef int c_worked(self, Py_ssize_t operations) except -1:
        self.pacer.ops += operations
        self.pacer.next_look += operations
        return 0

    def _try_straight(self, topic, obj):
        """Publish straight: True, or what was packed in vain; None if nothing was."""
        return self.c_try_straight(topic, obj)

    cdef object c_try_straight(self, object topic, object obj):
        cdef bytes data
        cdef Subject subject
        if self.thread != this_thread():  # the ring would not notice
            raise RuntimeError("this publisher belongs to the event loop of another thread")
        if self.in_line or self.is_closed or not PyUnicode_CheckExact(topic):
            return None
        subject = self.subjects.get(topic)
        if subject is None or not self.c_may_go(subject.audience):
            return None
        if self.retained is not None:
            self.retained.check(topic)
        try:
            value = obj if self.encode is None else self.encode(obj)
            if type(value) is list or type(value) is tuple:
                value = b"".join(value)
            data = subject.c_pack(value)
        except Exception:
            return None  # who is asked next says what is wrong
        if not self.c_go(subject.audience, topic, data):
            return data
        self.published += 1
        if self.retained is not None:
            self.retained.keep(topic, data)
        return True

    cdef bint c_may_go(self, Audience audience):
        if self.stage is None:
            return audience.c_lets_pass()
        return self.aboard is audience and self.rides_left > 0

    cdef bint c_go(self, Audience audience, object topic, bytes data) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if self.stage is None:
            if size > self.longest:
                return False
            self.c_pass(audience, topic, data)
            return True
        if size >= LONG:
            self.pacer.next_look = 0
        if size > self.longest_ride or self.stage.c_put(data, self.mask) != PUT:
            return False
        self.rides_left -= 1
        self.rides += 1
        return True

    cdef int c_pass(self, Audience audience, object topic, bytes data) except -1:
        self.c_worked(len(audience.feeds) // PASSES_PER_OPERATION)
        for feed in audience.feeds:
            if not (<FeedCore>feed).c_pass(data):
                self._offer(feed, topic, data)
        return 0


cdef class Publish(Straight):
    """``await publisher.publish(topic, obj)``"""

    cdef PublisherCore publisher
    cdef object topic

    cdef object c_go(self, PyObject** result):
        cdef PublisherCore publisher = self.publisher
        topic, self.topic = self.topic, None
        obj, self.parts, self.publisher = self.parts, None, None
        sent = publisher.c_try_straight(topic, obj)
        if sent is not True:
            way = publisher._publish_otherwise(topic, obj, sent)
            if way is not None:
                return way
        publisher.spare = self
        Py_INCREF(None)
        result[0] = <PyObject*>None
        return None

    def __dealloc__(self):
        if self.state == NEW and self.pacer is not None:
            PyErr_WarnEx(
                RuntimeWarning, "publisher.publish() was never awaited: nothing was sent", 1
            )
