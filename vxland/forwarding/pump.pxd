cimport cython
from libc.stdint cimport int64_t
from vxland.forwarding.decap cimport DecapBurst
from vxland.forwarding.encap cimport EncapBurst
from vxland.forwarding.recorder cimport Recorder
from vxland.datapath.limits cimport Limits
from vxland.datapath.table cimport Table
from vxland.forwarding.io.ring cimport Ring
from vxland.forwarding.io.syscalls cimport now_us

cdef int64_t MAX_POLL_US

@cython.final
cdef class Pump:
    cdef EncapBurst _encap
    cdef DecapBurst _decap
    cdef object _on_fault, _on_refused, _on_too_big, _stop_gro, _public
    cdef set _given_up
    cdef bint _segment_told
    cdef readonly Recorder recorder
    cdef public Table table
    cdef public Limits limits
    cdef public Ring capture
    cdef int64_t busy_poll_us

    @cython.locals(table=Table)
    cpdef void on_tap_readable(self)
    @cython.locals(table=Table)
    cpdef void on_udp_readable(self)
    @cython.locals(table=Table)
    cpdef void on_public_readable(self)
    cpdef void renew_tap(self)
    cdef bint _has_news(self)
    cdef void _begin(self, Table table)
    @cython.locals(start_us=int64_t, last_us=int64_t, now=int64_t, got=Py_ssize_t)
    cdef void _poll(self, Table table, Recorder recorder) noexcept nogil
