cimport cython

cdef int TCP_MIN_LEN, UDP_LEN, TCP_CSUM_OFF, UDP_CSUM_OFF, TCP_CWR, TCP_ALONE, TCP, UDP
cdef int IPIP, IPV6, GRE, MPLS, GRE_CSUM_OFF, GRE_HAS_CSUM

cpdef bint has_ports(int proto) noexcept nogil
cpdef bint carries_packets(int proto) noexcept nogil
@cython.locals(length=Py_ssize_t)
cpdef Py_ssize_t header_len(const unsigned char *buf, Py_ssize_t at, Py_ssize_t room, int proto) noexcept nogil
cpdef Py_ssize_t csum_off(int proto) noexcept nogil
cpdef bint has_csum_at(const unsigned char *buf, Py_ssize_t at, Py_ssize_t room, int proto,
                       Py_ssize_t offset) noexcept nogil
cpdef bint has_cwr(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef bint may_be_cut(const unsigned char *buf, Py_ssize_t at) noexcept nogil
