cimport cython

cdef Py_ssize_t HEADROOM, MAX_FRAME_LEN, SLOT_LEN, FRAMES_LEN

@cython.final
cdef class Arena:
    cdef readonly Py_ssize_t length
    cdef readonly bytearray memory
    cdef unsigned char *base
