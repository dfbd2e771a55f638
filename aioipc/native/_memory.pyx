# cython: language_level=3
"""Memory of a file that several processes look at: mmap(2)."""

from cpython.exc cimport PyErr_SetFromErrno

from aioipc.native._view cimport fill_view

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_PRIVATE
        MAP_POPULATE
        MADV_DONTFORK
    char* MAP_FAILED
    void* c_mmap "mmap"(void*, size_t, int, int, int, long)
    int munmap(void*, size_t)
    int madvise(void*, size_t, int)

cdef extern from "<unistd.h>" nogil:
    int getpid()

cdef enum:
    MOST_POPULATED = 16777216    # beyond this the page faults are spread over the use


cdef class Mapping:
    """The first ``size`` bytes of a file, shared, as a buffer.

    It is unmapped when nobody refers to it any more, memoryviews included, so a view never
    outlives its memory. A forked child does not inherit it (madvise(2), ``MADV_DONTFORK``):
    there, touching a view is a segmentation fault. With ``inherited`` it does, for as long as
    it runs.

    Args:
        fd: The file, which may be closed afterwards.
        size: How much of it; it must be that long already.
        writable: Whether to write to it.
        populate: Whether up to 16 MiB are mapped page by page at once, not at the first touch;
            not if it is private, where that would copy each page.
        private: Whether what is written stays here.
        inherited: Whether forked children have it, too.

    Raises:
        OSError: The kernel refused.
    """

    def __init__(
        self,
        int fd,
        size_t size,
        *,
        bint writable=True,
        bint populate=True,
        bint private=False,
        bint inherited=False,
    ):
        cdef int protection = PROT_READ | (PROT_WRITE if writable else 0)
        cdef int flags = MAP_PRIVATE if private else MAP_SHARED
        cdef void* address
        if populate and not private and size <= MOST_POPULATED:
            flags |= MAP_POPULATE
        if self.address is not NULL:
            raise RuntimeError("a mapping is made once")
        with nogil:
            address = c_mmap(NULL, size, protection, flags, fd, 0)
        if address == <void*>MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.address = <char*>address
        self.size = size
        self.writable = writable
        self.pid = getpid()
        if not inherited and madvise(address, size, MADV_DONTFORK) != 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        # In a forked child something else may stand there by now.
        if self.address is not NULL and self.pid == getpid():
            munmap(self.address, self.size)

    def __getbuffer__(self, Py_buffer* view, int flags):
        if self.address is NULL or self.pid != getpid():
            raise BufferError("this memory belongs to the parent process")
        fill_view(view, self, self.address, self.size, self.writable, flags)

    def __len__(self):
        return self.size
