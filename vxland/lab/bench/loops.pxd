cimport cython
from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport read, write
from vxland.forwarding.io.buffers cimport Arena

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef Py_ssize_t CLOCK_EVERY
cdef int64_t NS, LATE_NS


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef inline Py_ssize_t read_some(int fd, unsigned char *buf, Py_ssize_t length) noexcept nogil:
    return read(fd, buf, length)


cdef inline Py_ssize_t write_some(int fd, const unsigned char *buf, Py_ssize_t length) noexcept nogil:
    return write(fd, buf, length)


@cython.locals(arena=Arena, interval_ns=double, span_ns=int64_t)
cpdef Py_ssize_t flood(int fd, Py_ssize_t length, double rate, double seconds)
@cython.locals(sent=Py_ssize_t, tried=Py_ssize_t, start=int64_t, now=int64_t)
cdef Py_ssize_t _flood(int fd, const unsigned char *buf, Py_ssize_t length, double interval_ns,
                       int64_t span_ns) noexcept nogil

@cython.locals(arena=Arena, span_ns=int64_t)
cpdef void count(int fd, Py_ssize_t length, double seconds, int64_t[::1] tally)
@cython.locals(got=Py_ssize_t, start=int64_t, now=int64_t, first=int64_t)
cdef void _count(int fd, unsigned char *buf, Py_ssize_t length, int64_t span_ns, int64_t[::1] tally) noexcept nogil

@cython.locals(arena=Arena)
cpdef void echo(int fd, Py_ssize_t length)
@cython.locals(got=Py_ssize_t)
cdef void _echo(int fd, unsigned char *buf, Py_ssize_t length) noexcept nogil

@cython.locals(arena=Arena, span_ns=int64_t, room=Py_ssize_t)
cpdef Py_ssize_t ask(int fd, Py_ssize_t length, double seconds, int64_t[::1] samples)
@cython.locals(asked=Py_ssize_t, start=int64_t, now=int64_t, before=int64_t, missing=Py_ssize_t, got=Py_ssize_t)
cdef Py_ssize_t _ask(int fd, unsigned char *buf, Py_ssize_t length, int64_t span_ns, int64_t[::1] samples,
                     Py_ssize_t room) noexcept nogil
