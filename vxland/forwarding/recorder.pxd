cimport cython
from libc.stdint cimport uint32_t, uint64_t
from vxland.datapath.datagram cimport Datagram
from vxland.datapath.encap cimport Encap
from vxland.datapath.table cimport Table
from vxland.datapath.traffic cimport Traffic
from vxland.datapath.train cimport Gather, Train
from vxland.forwarding.io.ring cimport ALL_INNER, ALL_OUTER, Ring
from vxland.wire.ethernet cimport SRC_OFF as ETH_SRC_OFF
from vxland.wire.ethernet cimport TYPE_OFF as ETH_TYPE_OFF
from vxland.wire.record cimport DECAP, ENCAP, FROM_VXLAN

cdef int COPIES
cdef Py_ssize_t ETH_LEN, SNAPLEN, LAST_DROPS, RECORD_LEN

ctypedef unsigned char *buffer_t

@cython.final
cdef class Recorder:
    cdef readonly Traffic traffic
    cdef readonly list retired
    cdef readonly Ring drops
    cdef readonly int mode
    cdef Ring _capture
    cdef int _copies

    cpdef void begin(self, Table table, Ring capture)
    cdef void hold(self) noexcept nogil
    @cython.locals(hi=uint64_t, lo=uint64_t)
    cdef void frame(self, buffer_t buf, Py_ssize_t at, Py_ssize_t length, int verdict, Encap encap,
                    Table table) noexcept nogil
    cdef void answer(self, buffer_t buf, Py_ssize_t at, Py_ssize_t length, int verdict) noexcept nogil
    @cython.locals(stop=Py_ssize_t, nbytes=Py_ssize_t)
    cdef void datagrams(self, buffer_t buf, Train train, Py_ssize_t first, Py_ssize_t count, int verdict,
                        Table table) noexcept nogil
    @cython.locals(hi=uint64_t, lo=uint64_t, port=int)
    cdef void datagram(self, buffer_t buf, Py_ssize_t at, Py_ssize_t length, int verdict,
                       Datagram datagram) noexcept nogil
    cdef void refused(self, buffer_t buf, Gather run, int verdict) noexcept nogil
    cdef void _keep_dropped(self, Ring ring, buffer_t buf, Py_ssize_t at, Py_ssize_t length, int verdict,
                            Encap encap) noexcept nogil
    cdef void _keep(self, Ring ring, buffer_t buf, Py_ssize_t at, Py_ssize_t length, uint32_t direction, int verdict,
                    uint32_t flags, uint64_t hi, uint64_t lo, int port, int gso_size) noexcept nogil
    @cython.locals(hi=uint64_t, lo=uint64_t, i=Py_ssize_t)
    cdef void _gather(self, Ring ring, buffer_t buf, Train train, Py_ssize_t first, Py_ssize_t count,
                      Py_ssize_t nbytes, int verdict, Table table) noexcept nogil
