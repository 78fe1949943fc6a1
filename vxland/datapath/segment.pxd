cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from vxland.datapath.train cimport MAX_TRAIN_LEN, Train, is_too_fine
from vxland.wire.checksum cimport complement, fold, sum_bytes
from vxland.wire.ip cimport Ip
from vxland.wire.l4 cimport TCP, TCP_CSUM_OFF, UDP_CSUM_OFF, csum_off, header_len
from vxland.wire.bigendian cimport M32, copy_bytes, put_u16, put_u32, u16_at, u32_at

cdef Py_ssize_t SLOT_LEN, SLOTS, SCRATCH_LEN, MOST_COPIES, VXLAN_LEN
cdef uint16_t FIN_PSH, CWR

@cython.final
cdef class Segmenter:
    cdef Py_ssize_t scratch_at, frame_at, headers_len, slot_len, slots, ip_off, l4_off, mss, next_at, end
    cdef readonly Py_ssize_t segments
    cdef bint is_v4, is_tcp
    cdef uint32_t seq
    cdef uint16_t ip_id, flags
    cdef uint64_t ip_sum, l4_sum

    @cython.locals(l4_len=Py_ssize_t, payload_len=Py_ssize_t, csum_at=Py_ssize_t,
                   pseudo_rest=uint64_t, varying=uint64_t)
    cpdef bint open(self, unsigned char *buf, Py_ssize_t frame_at, Ip ip, Py_ssize_t csum_start,
                    Py_ssize_t gso_size) noexcept nogil
    cpdef bint done(self) noexcept nogil
    cpdef Py_ssize_t datagram_len(self) noexcept nogil
    cpdef bint has_slot(self, Train train) noexcept nogil
    cpdef bint is_wide(self) noexcept nogil
    @cython.locals(slot_len=Py_ssize_t, slots=Py_ssize_t, slot_at=Py_ssize_t, payload_len=Py_ssize_t)
    cpdef void fill(self, unsigned char *buf, Train train) noexcept nogil
    @cython.locals(l4_at=Py_ssize_t, l4_len=Py_ssize_t, total_len=Py_ssize_t, total=uint64_t, flags=uint16_t)
    cdef void _patch(self, unsigned char *buf, Py_ssize_t at, Py_ssize_t payload_len) noexcept nogil
