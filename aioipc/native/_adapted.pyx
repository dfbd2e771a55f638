# cython: language_level=3, boundscheck=False, wraparound=False
"""Transports written in Python, as native ports."""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE

from aioipc.native._pacer cimport ACCEPTED, MessagePort, NO_ROOM


cdef class AdaptedPort(MessagePort):
    """Any Python object that keeps the MessageTransport contract, as a native port.

    One that has ``try_gather`` as well, `try_send` without a write, is given the messages of one
    turn to gather; one that counts its ``system_calls`` as [read, written] has them in the statistics.
    """

    cdef readonly object transport
    cdef object gather
    cdef object calls

    def __init__(self, transport):
        self.transport = transport
        self.gather = getattr(transport, "try_gather", None)
        self.calls = getattr(transport, "system_calls", None)
        self.called_by_loop = False

    cdef int c_count_calls(self) except -1:
        if self.calls is not None:
            self.counters.read_calls, self.counters.write_calls = self.calls
        return 0

    cdef object c_receive(self):
        message = self.transport.try_receive()
        self.c_count_calls()
        if message is None:
            return None
        self.counters.messages_received += 1
        self.counters.bytes_received += len(message)
        # Valid only until the next call, so it has to be ours.
        return message if PyBytes_CheckExact(message) else bytes(message)

    def take_fds(self, int most=-1):
        return self.transport.take_fds()

    cdef int c_send(self, object parts, object fds) except -1:
        if not isinstance(parts, (tuple, list)):
            parts = (parts,)
        if self.gather is None or self.pacer is None:
            accepted = self.transport.try_send(parts, fds)
        elif self.turn == self.pacer.turn:
            self.pacer.c_gathered(self)
            accepted = self.gather(parts, fds)
        else:
            self.pacer.c_begin_sending(self)
            accepted = self.transport.try_send(parts, fds)
        self.c_count_calls()
        if not accepted:
            return NO_ROOM
        self.counters.messages_sent += 1
        for part in parts:
            self.counters.bytes_sent += (
                PyBytes_GET_SIZE(part) if PyBytes_CheckExact(part) else memoryview(part).nbytes
            )
        return ACCEPTED

    cdef int c_begin_batch(self) except -1:
        if self.pacer is not None:
            self.pacer.c_begin_sending(self)
        return 0

    cdef int c_flush(self) except -1:
        accepted = self.transport.try_flush()
        self.c_count_calls()
        return accepted

    def on_readable(self, callback):
        self.transport.on_readable(callback)

    def on_writable(self, callback):
        self.transport.on_writable(callback)

    def close(self):
        self.transport.close()

    cdef int c_poll_fd(self, bint for_room) noexcept:
        try:
            source = None if for_room else self.transport.poll_source
            return -1 if source is None else source
        except Exception:
            return -1  # closed
