# cython: language_level=3
"""How an extension type answers for a view of its bytes: the buffer protocol."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE, Py_buffer


cdef inline int fill_view(
    Py_buffer* view, object owner, void* start, Py_ssize_t size, bint writable, int flags
) except -1:
    """As `PyBuffer_FillInfo`, which would forget the reference that Cython had put there."""
    if flags & PyBUF_WRITABLE == PyBUF_WRITABLE and not writable:
        raise BufferError("Object is not writable.")
    view.obj = owner
    view.buf = start
    view.len = size
    view.itemsize = 1
    view.readonly = not writable
    view.ndim = 1
    view.format = <char*>b"B" if flags & PyBUF_FORMAT == PyBUF_FORMAT else NULL
    view.shape = &view.len if flags & PyBUF_ND == PyBUF_ND else NULL
    view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
    view.suboffsets = NULL
    view.internal = NULL
    return 0
