cimport cython
from libc.stdint cimport int64_t, uint16_t, uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec, timeval
from posix.unistd cimport close, read, write
from vxland.forwarding.io.buffers cimport Arena

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<netinet/in.h>" nogil:
    int AF_INET, SOCK_STREAM, SOCK_CLOEXEC, SOL_SOCKET, SO_SNDTIMEO, SO_RCVTIMEO
    struct sockaddr
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        int sin_family
        uint16_t sin_port
        in_addr sin_addr
    uint32_t htonl(uint32_t number)
    uint16_t htons(uint16_t number)
    int socket(int family, int kind, int protocol)
    int setsockopt(int fd, int level, int option, const void *value, unsigned int length)
    int connect_to "connect"(int fd, const sockaddr *address, unsigned int length)
    int accept_from "accept"(int fd, sockaddr *address, unsigned int *length)

cdef Py_ssize_t CLOCK_EVERY
cdef int64_t NS, LATE_NS
cdef long TIMEOUT_S


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef inline Py_ssize_t read_some(int fd, unsigned char *buf, Py_ssize_t length) noexcept nogil:
    return read(fd, buf, length)


cdef inline Py_ssize_t write_some(int fd, const unsigned char *buf, Py_ssize_t length) noexcept nogil:
    return write(fd, buf, length)


cdef inline int close_fd(int fd) noexcept nogil:
    return close(fd)


cdef inline int open_tcp(uint32_t address, uint16_t port) noexcept nogil:
    cdef sockaddr_in to
    cdef timeval limit
    cdef int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)
    limit.tv_sec = TIMEOUT_S
    limit.tv_usec = 0
    to.sin_family = AF_INET
    to.sin_port = htons(port)
    to.sin_addr.s_addr = htonl(address)
    if fd >= 0 and (
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0
        or setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0
        or connect_to(fd, <const sockaddr *>&to, sizeof(to)) < 0
    ):
        close(fd)
        return -1
    return fd


cdef inline int accept_tcp(int fd) noexcept nogil:
    return accept_from(fd, NULL, NULL)


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

@cython.locals(arena=Arena, span_ns=int64_t, room=Py_ssize_t)
cpdef Py_ssize_t connect(uint32_t address, uint16_t port, double seconds, int64_t[::1] samples)
@cython.locals(made=Py_ssize_t, start=int64_t, now=int64_t, before=int64_t, fd=int, answered=bint)
cdef Py_ssize_t _connect(uint32_t address, uint16_t port, unsigned char *buf, int64_t span_ns, int64_t[::1] samples,
                         Py_ssize_t room) noexcept nogil

@cython.locals(arena=Arena)
cpdef void accept(int fd)
@cython.locals(connection=int)
cdef void _accept(int fd, unsigned char *buf) noexcept nogil
