# The calls of the burst loop, as the compiled gear makes them: see syscalls.py for what each promises.

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport read

from vxland.datapath.datagram cimport Datagram, segment_size_of
from vxland.datapath.table cimport Table
from vxland.datapath.train cimport MAX_RANGES, Gather, Train

cdef extern from *:
    """
    #define vxland_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    void vxland_fence() noexcept nogil

cdef extern from "<endian.h>" nogil:
    uint64_t be64toh(uint64_t)
    uint64_t htobe64(uint64_t)

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t)
    uint16_t ntohs(uint16_t)
    uint32_t htonl(uint32_t)
    uint32_t ntohl(uint32_t)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    Py_ssize_t writev(int, const iovec *, int)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr_storage:
        unsigned short ss_family
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *)
    cmsghdr *CMSG_NXTHDR(msghdr *, cmsghdr *)
    unsigned char *CMSG_DATA(cmsghdr *)
    size_t CMSG_LEN(size_t)
    size_t CMSG_SPACE(size_t)
    Py_ssize_t recvmsg(int, msghdr *, int)
    Py_ssize_t sendmsg(int, const msghdr *, int)
    enum:
        AF_INET, AF_INET6, MSG_CTRUNC, MSG_DONTWAIT, MSG_TRUNC, SOL_SOCKET, SO_MARK

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct in6_addr:
        unsigned char s6_addr[16]
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    enum:
        IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IP_TOS, IP_TTL, IPV6_TCLASS, IPV6_HOPLIMIT

cdef extern from "<netinet/udp.h>" nogil:
    enum:
        UDP_SEGMENT

cdef enum:
    IOVECS = 512  # train.MAX_RANGES
    IP_FRAGSIZE = 25  # IP_RECVFRAGSIZE, linux/in.h; not in every libc's headers
    IPV6_FRAGSIZE = 77  # linux/in6.h


cdef inline int64_t now_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef inline void fence() noexcept nogil:
    vxland_fence()


cdef inline void copy_between(unsigned char *to, Py_ssize_t to_at, const unsigned char *buf, Py_ssize_t at,
                              Py_ssize_t length) noexcept nogil:
    memcpy(to + to_at, buf + at, length)


cdef inline Py_ssize_t read_frame(int tap, unsigned char *buf, Py_ssize_t at, Py_ssize_t room) noexcept nogil:
    cdef Py_ssize_t nbytes = read(tap, buf + at, room)
    return nbytes if nbytes >= 0 else -errno


cdef inline Py_ssize_t fill_iovecs(iovec *parts, unsigned char *buf, Gather ranges, Py_ssize_t first,
                                   Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i, nbytes = 0
    for i in range(count):
        parts[i].iov_base = buf + ranges.at[first + i]
        parts[i].iov_len = ranges.length[first + i]
        nbytes += ranges.length[first + i]
    return nbytes


cdef inline Py_ssize_t write_run(int tap, unsigned char *buf, Gather run) noexcept nogil:
    cdef iovec parts[IOVECS]
    cdef Py_ssize_t nbytes
    fill_iovecs(parts, buf, run, 0, run.count)
    nbytes = writev(tap, parts, <int>run.count)
    return nbytes if nbytes >= 0 else -errno


cdef inline Py_ssize_t recv_datagram(int handle, unsigned char *buf, Py_ssize_t at, Py_ssize_t room,
                                     Datagram datagram) noexcept nogil:
    cdef sockaddr_storage source
    cdef unsigned char control[96]  # four messages: mark, size, ECN field, size of a fragment
    cdef iovec payload
    cdef msghdr message
    cdef cmsghdr *cmsg
    cdef Py_ssize_t nbytes
    payload.iov_base = buf + at
    payload.iov_len = room
    memset(&message, 0, sizeof(message))
    message.msg_name = &source
    message.msg_namelen = sizeof(source)
    message.msg_iov = &payload
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = sizeof(control)
    nbytes = recvmsg(handle, &message, MSG_DONTWAIT)
    if nbytes < 0:
        return -errno
    if source.ss_family == AF_INET:
        datagram.outer_src_hi = 0
        datagram.outer_src_lo = ntohl((<sockaddr_in *>&source).sin_addr.s_addr)
        datagram.port = ntohs((<sockaddr_in *>&source).sin_port)
    else:
        datagram.outer_src_hi = be64toh((<uint64_t *>(<sockaddr_in6 *>&source).sin6_addr.s6_addr)[0])
        datagram.outer_src_lo = be64toh((<uint64_t *>(<sockaddr_in6 *>&source).sin6_addr.s6_addr)[1])
        datagram.port = ntohs((<sockaddr_in6 *>&source).sin6_port)
    datagram.truncated = message.msg_flags & MSG_TRUNC != 0
    datagram.untold = message.msg_flags & MSG_CTRUNC != 0
    datagram.ecn = 0
    datagram.stride = 0
    datagram.segment_size = 0
    datagram.fragmented = False
    cmsg = CMSG_FIRSTHDR(&message)
    while cmsg != NULL:
        # The last one may be cut short: MSG_CTRUNC. IPv4's TOS is one byte, all others are an int.
        if cmsg.cmsg_len >= CMSG_LEN(1 if cmsg.cmsg_level == IPPROTO_IP else sizeof(int)):
            if cmsg.cmsg_level == IPPROTO_UDP:
                datagram.stride = (<int *>CMSG_DATA(cmsg))[0]
            elif cmsg.cmsg_level == SOL_SOCKET and cmsg.cmsg_type == SO_MARK:
                datagram.segment_size = segment_size_of((<uint32_t *>CMSG_DATA(cmsg))[0])
            elif cmsg.cmsg_level == IPPROTO_IP and cmsg.cmsg_type == IP_TOS:
                datagram.ecn = CMSG_DATA(cmsg)[0] & 3
            elif cmsg.cmsg_level == IPPROTO_IPV6 and cmsg.cmsg_type == IPV6_TCLASS:
                datagram.ecn = (<int *>CMSG_DATA(cmsg))[0] & 3
            elif cmsg.cmsg_level == IPPROTO_IP and cmsg.cmsg_type == IP_FRAGSIZE:
                datagram.fragmented = True
            elif cmsg.cmsg_level == IPPROTO_IPV6 and cmsg.cmsg_type == IPV6_FRAGSIZE:
                datagram.fragmented = True
        cmsg = CMSG_NXTHDR(&message, cmsg)
    return nbytes


cdef inline Py_ssize_t send_ranges(int handle, unsigned char *buf, Train train, Py_ssize_t first, Py_ssize_t count,
                                   Table table) noexcept nogil:
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    cdef uint64_t control[12]
    cdef iovec parts[IOVECS]
    cdef msghdr message
    cdef cmsghdr *cmsg
    cdef Py_ssize_t nbytes, control_len = 0
    cdef Py_ssize_t vtep = train.vtep
    memset(&message, 0, sizeof(message))
    if table.underlay_v6:
        memset(&v6, 0, sizeof(v6))
        v6.sin6_family = AF_INET6
        v6.sin6_port = htons(table.port)
        (<uint64_t *>v6.sin6_addr.s6_addr)[0] = htobe64(table.outer_hi[vtep])
        (<uint64_t *>v6.sin6_addr.s6_addr)[1] = htobe64(table.outer_lo[vtep])
        message.msg_name = &v6
        message.msg_namelen = sizeof(v6)
    else:
        v4.sin_family = AF_INET
        v4.sin_port = htons(table.port)
        v4.sin_addr.s_addr = htonl(<uint32_t>table.outer_lo[vtep])
        message.msg_name = &v4
        message.msg_namelen = sizeof(v4)
    nbytes = fill_iovecs(parts, buf, train.ranges, first, count)
    message.msg_iov = parts
    message.msg_iovlen = count
    memset(control, 0, sizeof(control))
    cmsg = <cmsghdr *>control
    if train.marks != train.plain_marks:
        cmsg.cmsg_level = IPPROTO_IPV6 if table.underlay_v6 else IPPROTO_IP
        cmsg.cmsg_type = IPV6_TCLASS if table.underlay_v6 else IP_TOS
        cmsg.cmsg_len = CMSG_LEN(sizeof(int))
        (<int *>CMSG_DATA(cmsg))[0] = train.marks & 0xFF
        control_len = CMSG_SPACE(sizeof(int))
        if train.marks >> 8 != 0:
            cmsg = <cmsghdr *>(<unsigned char *>control + control_len)
            cmsg.cmsg_level = IPPROTO_IPV6 if table.underlay_v6 else IPPROTO_IP
            cmsg.cmsg_type = IPV6_HOPLIMIT if table.underlay_v6 else IP_TTL
            cmsg.cmsg_len = CMSG_LEN(sizeof(int))
            (<int *>CMSG_DATA(cmsg))[0] = train.marks >> 8
            control_len += CMSG_SPACE(sizeof(int))
    if nbytes > train.size:
        cmsg = <cmsghdr *>(<unsigned char *>control + control_len)
        cmsg.cmsg_level = IPPROTO_UDP
        cmsg.cmsg_type = UDP_SEGMENT
        cmsg.cmsg_len = CMSG_LEN(sizeof(uint16_t))
        (<uint16_t *>CMSG_DATA(cmsg))[0] = <uint16_t>train.size
        control_len += CMSG_SPACE(sizeof(uint16_t))
    if control_len != 0:
        message.msg_control = control
        message.msg_controllen = control_len
    nbytes = sendmsg(handle, &message, MSG_DONTWAIT)
    return nbytes if nbytes >= 0 else -errno
