/* How native operations are awaited: by am_send, and by what stands in for it.

   Cython fills tp_as_async from __await__, __aiter__ and __anext__, but has no name for am_send,
   which returns the result of an operation, where a generator would raise it. CPython 3.11 asks for
   that in each `await`. Later ones call tp_iternext instead, and take the result from a StopIteration
   (PEP 380); or take it for None, when there is no exception. To make and to free one is half of what
   a short receive takes, so the last one that was caught is raised again. */

#ifndef AIOIPC_AWAITING_H
#define AIOIPC_AWAITING_H

#include <Python.h>

#if PY_VERSION_HEX < 0x030C0000
static inline void PyErr_SetRaisedException(PyObject *exception)
{
    PyErr_Restore(Py_NewRef(Py_TYPE(exception)), exception, NULL);
}
#endif

static PyObject *awaiting_spare;  /* a Return without references to or from it */

/* tp_dealloc. One that Python code has seen has a traceback, and maybe more. */
static void awaiting_drop(PyObject *self)
{
    PyStopIterationObject *stop = (PyStopIterationObject *)self;

    PyObject_GC_UnTrack(self);
    Py_CLEAR(stop->value);  /* which may run code that comes here as well */
#ifndef Py_GIL_DISABLED
    if (awaiting_spare == NULL && !stop->traceback && !stop->context && !stop->cause
        && !stop->dict && !stop->notes) {
        awaiting_spare = self;
        return;
    }
#endif
    ((PyTypeObject *)PyExc_StopIteration)->tp_dealloc(self);
}

static PyTypeObject awaiting_Return = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc.native._operation.Return",
    .tp_doc = "The result of an operation.",
    .tp_basicsize = sizeof(PyStopIterationObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = awaiting_drop,
};

/* Called once, before anything is awaited. */
static int awaiting_begin(void)
{
    PyTypeObject *base = (PyTypeObject *)PyExc_StopIteration;

    awaiting_Return.tp_base = base;
    awaiting_Return.tp_traverse = base->tp_traverse;
    awaiting_Return.tp_clear = base->tp_clear;
    return PyType_Ready(&awaiting_Return);
}

/* A Return that nobody else has; NULL and an exception without memory for one. */
static PyObject *awaiting_return(void)
{
    PyObject *stop = awaiting_spare, *arguments;

    if (stop != NULL) {
        awaiting_spare = NULL;
        Py_SET_REFCNT(stop, 1);
        PyObject_GC_Track(stop);  /* whoever catches it may make a cycle of it */
        return stop;
    }
    arguments = PyTuple_New(0);
    if (arguments == NULL)
        return NULL;
    stop = awaiting_Return.tp_new(&awaiting_Return, arguments, NULL);
    Py_DECREF(arguments);
    return stop;
}

/* tp_iternext. */
static PyObject *awaiting_iternext(PyObject *operation)
{
    PyObject *result = NULL, *stop;
    sendfunc send = Py_TYPE(operation)->tp_as_async->am_send;
    PySendResult status = send(operation, Py_None, &result);

    if (status == PYGEN_NEXT || result == NULL)
        return result;
    if (result == Py_None) {
        Py_DECREF(result);
        return NULL;
    }
    stop = awaiting_return();
    if (stop == NULL) {
        Py_DECREF(result);
        return NULL;
    }
    ((PyStopIterationObject *)stop)->value = result;
    PyErr_SetRaisedException(stop);
    return NULL;
}

/* Called once per type. A type inherits its table by pointer, so each gets one of its own. */
static void awaiting_set_am_send(PyTypeObject *type, PyAsyncMethods *table, sendfunc send)
{
    *table = *type->tp_as_async;
    table->am_send = send;
    type->tp_as_async = table;
    type->tp_iternext = awaiting_iternext;
#ifdef Py_TPFLAGS_HAVE_AM_SEND
    type->tp_flags |= Py_TPFLAGS_HAVE_AM_SEND;
#endif
    PyType_Modified(type);
}

#endif
