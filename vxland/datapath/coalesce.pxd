cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from vxland.datapath.decap cimport Decap
from vxland.datapath.train cimport Gather
from vxland.wire.checksum cimport complement, fold, sum_bytes
from vxland.wire.ip cimport Ip
from vxland.wire.l4 cimport TCP, csum_off
from vxland.wire.bigendian cimport M32, put_u16, same_bytes, u16_at, u32_at
from vxland.wire.virtio cimport F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4
from vxland.wire.virtio cimport put_header as put_virtio

cdef Py_ssize_t VIRTIO_LEN, MAX_PACKET_LEN, MAX_SEGMENTS
cdef int FLAGS, ACK, ENDING

@cython.final
cdef class Coalescer:
    cdef public bint tcp, udp, takes_tcp, takes_udp
    cdef readonly Gather ranges
    cdef readonly Py_ssize_t segments, nbytes, declared
    cdef readonly bint ended
    cdef readonly int gso_type
    cdef Py_ssize_t _virtio_at, _frame_at, _ip_at, _l4_at, _payload_at, _end, _gso_size
    cdef int _version, _proto, _last_flags
    cdef uint32_t _next_seq
    cdef uint16_t _first_len, _first_ip_sum, _first_word, _first_l4_sum
    cdef uint64_t _pseudo
    cdef bint _verified

    cpdef void start(self, unsigned char *buf, Py_ssize_t virtio_at, Decap decap) noexcept nogil
    @cython.locals(payload_len=Py_ssize_t)
    cpdef bint join(self, unsigned char *buf, Decap decap) noexcept nogil
    @cython.locals(packet_len=Py_ssize_t, l4_len=Py_ssize_t, first_len=Py_ssize_t)
    cpdef void finish(self, unsigned char *buf) noexcept nogil
    cpdef bint is_taken(self) noexcept nogil
    cpdef void refuse(self) noexcept nogil
    cpdef void take_apart(self, unsigned char *buf) noexcept nogil
    cpdef Py_ssize_t frame_at(self, Py_ssize_t number) noexcept nogil
    cpdef Py_ssize_t frame_len(self, Py_ssize_t number) noexcept nogil
    cpdef void clear(self) noexcept nogil
    cdef bint _may_lead(self, const unsigned char *buf, Decap decap, Ip ip) noexcept nogil
    cdef void _remember(self, const unsigned char *buf, Decap decap, Ip ip) noexcept nogil
    @cython.locals(payload_len=Py_ssize_t, headers_len=Py_ssize_t)
    cdef bint _continues(self, const unsigned char *buf, Decap decap, Ip ip) noexcept nogil
    @cython.locals(ip_len=Py_ssize_t, expected_id=uint16_t)
    cdef bint _same_ip(self, const unsigned char *buf, Ip ip) noexcept nogil
    @cython.locals(at=Py_ssize_t, first_at=Py_ssize_t)
    cdef bint _next_l4(self, const unsigned char *buf, Ip ip, Py_ssize_t l4_len) noexcept nogil
    cdef bint _is_whole_udp(self, const unsigned char *buf, Ip ip) noexcept nogil
    cdef bint _has_intact_header(self, const unsigned char *buf, int version, Py_ssize_t at,
                                 Py_ssize_t l4_at) noexcept nogil
    cdef bint _is_intact(self, const unsigned char *buf, Py_ssize_t l4_at, Py_ssize_t end,
                         uint64_t pseudo) noexcept nogil
