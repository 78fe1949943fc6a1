cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef Py_ssize_t NONE, PAGE, FULL, SPARSE
cdef uint64_t M32, M64, SCRAMBLE, VALUE
cdef int VALUE_BITS

@cython.final
cdef class Arena:
    cdef uint64_t[::1] words
    cdef Py_ssize_t pages, used

@cython.final
cdef class PrefixMap:
    cdef object bits, random_bits
    cdef readonly dict held
    cdef readonly Py_ssize_t lengths, pages
    cdef Py_ssize_t width, fresh
    cdef int64_t[::1] length
    cdef uint64_t[::1] mask_hi, mask_lo, records
    cdef uint32_t[::1] directory
    cdef Arena arena
    cdef int shift
    cdef uint64_t seed_0, seed_1, seed_2, seed_3, seed_4, seed_5

    @cython.locals(draft=PrefixMap)
    cpdef PrefixMap copy(self)
    @cython.locals(total=uint64_t, word=uint64_t)
    cpdef uint64_t hash_of(self, uint64_t length, uint64_t hi, uint64_t lo) noexcept nogil
    @cython.locals(i=Py_ssize_t, masked_hi=uint64_t, masked_lo=uint64_t, length=uint64_t, at=Py_ssize_t)
    cpdef Py_ssize_t lookup(self, uint64_t hi, uint64_t lo) noexcept nogil
    @cython.locals(word=uint64_t, at=Py_ssize_t, tag=uint64_t)
    cpdef void put(self, uint64_t hi, uint64_t lo, uint64_t length, uint64_t value)
    @cython.locals(word=uint64_t, at=Py_ssize_t, page=Py_ssize_t, hole=Py_ssize_t, slot=Py_ssize_t, away=Py_ssize_t,
                   i=Py_ssize_t)
    cpdef void drop(self, uint64_t hi, uint64_t lo, uint64_t length)
    @cython.locals(page=Py_ssize_t, slot=Py_ssize_t, at=Py_ssize_t, tag=uint64_t, record=uint64_t)
    cdef Py_ssize_t _find(self, uint64_t word, uint64_t length, uint64_t hi, uint64_t lo) noexcept nogil
    @cython.locals(record=uint64_t, hi=uint64_t)
    cdef uint64_t _hash_at(self, Py_ssize_t at) noexcept nogil
    @cython.locals(i=Py_ssize_t)
    cdef void _move(self, Py_ssize_t source, Py_ssize_t target) noexcept nogil
    @cython.locals(at=Py_ssize_t, used=Py_ssize_t)
    cdef bint _is_full(self, uint64_t word) noexcept nogil
    @cython.locals(index=Py_ssize_t, page=Py_ssize_t, own=Py_ssize_t, words=Py_ssize_t, first=Py_ssize_t,
                   end=Py_ssize_t, i=Py_ssize_t)
    cdef void _own(self, uint64_t word)
    @cython.locals(index=Py_ssize_t, first=Py_ssize_t, end=Py_ssize_t, middle=Py_ssize_t, page=Py_ssize_t,
                   low=Py_ssize_t, high=Py_ssize_t, i=Py_ssize_t, slot=Py_ssize_t, at=Py_ssize_t)
    cdef void _split(self, uint64_t word)
    @cython.locals(i=Py_ssize_t)
    cdef void _double(self, uint32_t[::1] directory)
    @cython.locals(page=Py_ssize_t, slot=Py_ssize_t)
    cdef Py_ssize_t _free(self, uint64_t word) noexcept nogil
    @cython.locals(page=uint32_t)
    cdef Py_ssize_t _first_of(self, Py_ssize_t index) noexcept nogil
    @cython.locals(page=uint32_t)
    cdef Py_ssize_t _end_of(self, Py_ssize_t index) noexcept nogil
    @cython.locals(words=Py_ssize_t, arena=Arena, index=Py_ssize_t, page=Py_ssize_t, own=Py_ssize_t)
    cdef void _reserve(self, Py_ssize_t count)
    @cython.locals(other=PrefixMap, index=Py_ssize_t, slot=Py_ssize_t, at=Py_ssize_t, record=uint64_t, lo=uint64_t,
                   length=uint64_t)
    cdef void _reseed(self)
    cdef void _list_lengths(self)
    cdef void become(self, PrefixMap other)
