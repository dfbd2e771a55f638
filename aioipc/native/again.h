/* Bytes objects that are written again.

   A bytes object that only its maker still has is as good as a new one, and cheaper: a short one by
   all that an allocation takes in instructions, and above about 1,000 bytes by much more, for there
   glibc keeps no chunks at hand for each thread, but unites what is freed with its neighbours and
   splits it off again; and a long one is in the processor's caches already. Whoever takes messages
   one by one holds the last one until the next is there, so two in turn suffice. zip() and
   enumerate() treat their tuples like that. */

#ifndef AIOIPC_AGAIN_H
#define AIOIPC_AGAIN_H

#include <Python.h>

#define AGAIN_LEAST 2     /* shorter ones exist once, and belong to everybody */
#define AGAIN_MOST (1 << 20)  /* longer ones are much memory to keep while others come */

typedef struct {
    PyObject *older, *newer;
} AgainBytes;

static inline void again_clear(AgainBytes *again)
{
    Py_CLEAR(again->older);
    Py_CLEAR(again->newer);
}

#ifdef Py_GIL_DISABLED

/* A count of references that other threads may change says nothing. */
static inline PyObject *again_room(AgainBytes *again, Py_ssize_t size)
{
    (void)again;
    return PyBytes_FromStringAndSize(NULL, size);
}

#else

static inline int again_may_write(PyObject *bytes, Py_ssize_t size)
{
    return bytes != NULL && Py_REFCNT(bytes) == 1 && PyBytes_GET_SIZE(bytes) == size;
}

static inline void again_forget_hash(PyObject *bytes)
{
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif
    ((PyBytesObject *)bytes)->ob_shash = -1;
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
}

/* A new reference to bytes of this size, to be filled at once, or NULL with MemoryError. */
static inline PyObject *again_room(AgainBytes *again, Py_ssize_t size)
{
    if (size < AGAIN_LEAST || size > AGAIN_MOST)
        return PyBytes_FromStringAndSize(NULL, size);
    PyObject *bytes = again->older;  /* the newer one stays until the next is there */
    if (again_may_write(bytes, size))
        again_forget_hash(bytes);
    else {
        PyObject *fresh = PyBytes_FromStringAndSize(NULL, size);
        if (fresh == NULL)
            return NULL;
        Py_XDECREF(bytes);
        bytes = fresh;
    }
    again->older = again->newer;
    again->newer = bytes;
    Py_INCREF(bytes);
    return bytes;
}

#endif

/* A new reference to bytes with this content, or NULL with MemoryError. */
static inline PyObject *again_bytes(AgainBytes *again, const char *data, Py_ssize_t size)
{
    if (size < AGAIN_LEAST)
        return PyBytes_FromStringAndSize(data, size);
    PyObject *bytes = again_room(again, size);
    if (bytes != NULL)
        memcpy(PyBytes_AS_STRING(bytes), data, (size_t)size);
    return bytes;
}

#endif
