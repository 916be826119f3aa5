"""The inner loops that a compiler must not be left to guess: written as vector code, for whatever machine it is.

LLVM cuts a vector of 32 numbers into the registers that there are (two of AVX-512, four of AVX2, eight of NEON). So
slots, multipliers and increments stay in registers while the hashes stream by, and no remainder loops are compiled.
"""
# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

SLOTS = 32
"""Slots that `fold` works on at a time."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _data(context, builder, kind, value):
    """The address of an array's first element."""
    return context.make_array(kind)(context, builder, value).data


def _at(builder, pointer, index, kind):
    """The address of element `index`, as one of a vector or number of this kind."""
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


def _load(builder, pointer, align):
    value = builder.load(pointer)
    value.align = align
    return value


def _store(builder, value, pointer, align):
    builder.store(value, pointer).align = align


def _splat(builder, value, kind):
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    mask = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), mask)


@intrinsic
def fold(typingctx, hashes, count, a, b, out, slot):
    """out[slot:slot + 32] = min(out, a * h + b) modulo 2**32, over h in hashes[:count]; all arrays are uint32."""

    def codegen(context, builder, signature, args):
        kinds = signature.args
        vector = ir.VectorType(_I32, SLOTS)
        source = _data(context, builder, kinds[0], args[0])
        m, c, place = (_at(builder, _data(context, builder, kinds[k], args[k]), args[5], vector) for k in (2, 3, 4))
        m, c = _load(builder, m, 4), _load(builder, c, 4)
        low = cgutils.alloca_once_value(builder, _load(builder, place, 4))
        with cgutils.for_range(builder, args[1]) as loop:
            h = _splat(builder, builder.load(builder.gep(source, [loop.index])), vector)
            value, least = builder.add(builder.mul(m, h), c), builder.load(low)
            builder.store(builder.select(builder.icmp_unsigned("<", value, least), value, least), low)
        _store(builder, builder.load(low), place, 4)
        return context.get_dummy_value()

    return types.void(hashes, types.int64, a, b, out, types.int64), codegen


@intrinsic
def words16(typingctx, source, at, out, to):
    """out[to + k] = bytes k..k+3 of source[at:at + 16] as one little-endian uint32, zeros beyond, for k < 16."""

    def codegen(context, builder, signature, args):
        kinds = signature.args
        half = ir.VectorType(_I8, 16)
        place = _at(builder, _data(context, builder, kinds[0], args[0]), args[1], half)
        data = _load(builder, place, 1)
        order = [min(k + j, 16) for k in range(16) for j in range(4)]  # element 16 is the first of the zeros
        mask = ir.Constant(ir.VectorType(_I32, 64), order)
        spread = builder.shuffle_vector(data, ir.Constant(half, [0] * 16), mask)
        words = ir.VectorType(_I32, 16)
        place = _at(builder, _data(context, builder, kinds[2], args[2]), args[3], words)
        _store(builder, builder.bitcast(spread, words), place, 4)
        return context.get_dummy_value()

    return types.void(source, types.int64, out, types.int64), codegen


@intrinsic
def copy16(typingctx, source, at, out, to):
    """out[to:to + 16] = source[at:at + 16], of bytes."""

    def codegen(context, builder, signature, args):
        kinds = signature.args
        half = ir.VectorType(_I8, 16)
        data = _load(builder, _at(builder, _data(context, builder, kinds[0], args[0]), args[1], half), 1)
        _store(builder, data, _at(builder, _data(context, builder, kinds[2], args[2]), args[3], half), 1)
        return context.get_dummy_value()

    return types.void(source, types.int64, out, types.int64), codegen


@intrinsic
def word64(typingctx, source, at):
    """source[at:at + 8], of bytes, as one uint64."""

    def codegen(context, builder, signature, args):
        return _load(builder, _at(builder, _data(context, builder, signature.args[0], args[0]), args[1], _I64), 1)

    return types.uint64(source, types.int64), codegen


@intrinsic
def byte_classes(typingctx, source, at):
    """Three masks of 64 bits for source[at:at + 64]: blanks, other white space of ASCII, and the bytes C2, E1, E2 and E3,
    which begin all white space beyond ASCII."""

    def codegen(context, builder, signature, args):
        wide = ir.VectorType(_I8, 64)
        data = _load(builder, _at(builder, _data(context, builder, signature.args[0], args[0]), args[1], wide), 1)
        constant = lambda value: ir.Constant(wide, [value] * 64)  # noqa: E731
        below = lambda first, count: builder.icmp_unsigned(  # noqa: E731
            "<", builder.sub(data, constant(first)), constant(count)
        )
        masks = (
            builder.icmp_unsigned("==", data, constant(32)),
            builder.or_(below(9, 5), below(28, 4)),
            builder.or_(below(0xE1, 3), builder.icmp_unsigned("==", data, constant(0xC2))),
        )
        return context.make_tuple(builder, signature.return_type, [builder.bitcast(mask, _I64) for mask in masks])

    return types.UniTuple(types.uint64, 3)(source, types.int64), codegen


@intrinsic
def trailing_zeros(typingctx, mask):
    """The number of the lowest bit that is set in a uint64 other than 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


@intrinsic
def equal_bytes(typingctx, rows, a, b):
    """In how many places two rows of bytes are equal; `rows` is uint8 (n, a multiple of 32)."""

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        wide = ir.VectorType(_I8, 32)
        size = cgutils.unpack_tuple(builder, array.shape)[1]
        first, second = (builder.mul(row, size) for row in args[1:])
        count = cgutils.alloca_once_value(builder, ir.Constant(_I32, 0))
        with cgutils.for_range(builder, builder.lshr(size, ir.Constant(_I64, 5))) as loop:
            at = builder.shl(loop.index, ir.Constant(_I64, 5))
            x, y = (_load(builder, _at(builder, array.data, builder.add(row, at), wide), 1) for row in (first, second))
            same = builder.bitcast(builder.icmp_unsigned("==", x, y), _I32)
            builder.store(builder.add(builder.load(count), builder.ctpop(same)), count)
        return builder.zext(builder.load(count), _I64)

    return types.int64(rows, types.int64, types.int64), codegen


LANES = 16
"""Spans that `xxh32_lanes` hashes at a time."""

_PRIMES = 2654435761, 2246822519, 3266489917, 668265263, 374761393  # of xxHash32
_MURMUR = 0x85EBCA6B, 0xC2B2AE35


class _Lanes:
    """Arithmetic on sixteen uint32 at once, as IR."""

    kind = ir.VectorType(_I32, LANES)

    def __init__(self, builder):
        self.builder = builder

    def constant(self, value):
        return ir.Constant(self.kind, [value & 0xFFFFFFFF] * LANES)

    def add(self, x, y):
        return self.builder.add(x, y)

    def times(self, x, y):
        return self.builder.mul(x, self.constant(y))

    def masked(self, x, mask):
        return self.builder.and_(x, self.constant(mask))

    def right(self, x, bits):
        return self.builder.lshr(x, self.constant(bits))

    def rotated(self, x, bits):
        return self.builder.or_(self.builder.shl(x, self.constant(bits)), self.right(x, 32 - bits))

    def mixed(self, x, first, second, shifts):
        """Twice a shift and a product, and a last shift: the end of xxHash32 and the whole of MurmurHash3's fmix32."""
        for bits, factor in zip(shifts, (first, second), strict=False):
            x = self.times(self.builder.xor(x, self.right(x, bits)), factor)
        return self.builder.xor(x, self.right(x, shifts[2]))

    def where(self, test, x, y):
        return self.builder.select(test, x, y)

    def at_least(self, x, value):
        return self.builder.icmp_unsigned(">=", x, self.constant(value))


@intrinsic
def xxh32_5grams(typingctx, words, at, out):
    """out[i] = fmix32 of the xxHash32, seed 0, of bytes i:i + 5, for i in at:at + 16; `words` as in `xxh32_lanes`.

    The usual shingle, with all steps in registers. Left to itself, LLVM takes half of each register of AVX-512.
    """
    p1, p2, p3, p4, p5 = _PRIMES

    def codegen(context, builder, signature, args):
        lanes = _Lanes(builder)
        source, out_data = (_data(context, builder, signature.args[k], args[k]) for k in (0, 2))
        word = _load(builder, _at(builder, source, args[1], lanes.kind), 4)
        last = _load(builder, _at(builder, source, builder.add(args[1], ir.Constant(_I64, 4)), lanes.kind), 4)
        h = lanes.add(lanes.constant(p5 + 5), lanes.times(word, p3))
        h = lanes.times(lanes.rotated(h, 17), p4)
        h = lanes.add(h, lanes.times(lanes.masked(last, 255), p5))
        h = lanes.times(lanes.rotated(h, 11), p1)
        h = lanes.mixed(lanes.mixed(h, p2, p3, (15, 13, 16)), *_MURMUR, (16, 13, 16))
        _store(builder, h, _at(builder, out_data, args[1], lanes.kind), 4)
        return context.get_dummy_value()

    return types.void(words, types.int64, out), codegen


@intrinsic
def xxh32_lanes(typingctx, words, starts, first, width, gap, out):
    """out[i] = fmix32 of the xxHash32, seed 0, of bytes starts[i]:starts[i + width] - gap, for i in first:first + 16.

    `words` is what `words16` makes of the text, with 16 places to spare; `starts`, int32, has 16 ends to spare.
    """
    p1, p2, p3, p4, p5 = _PRIMES

    def codegen(context, builder, signature, args):
        lanes = _Lanes(builder)
        source, begins, out_data = (_data(context, builder, signature.args[k], args[k]) for k in (0, 1, 5))
        begin = _load(builder, _at(builder, begins, args[2], lanes.kind), 4)
        end = _load(builder, _at(builder, begins, builder.add(args[2], args[3]), lanes.kind), 4)
        gaps = _splat(builder, builder.trunc(args[4], _I32), lanes.kind)
        size = builder.sub(builder.sub(end, begin), gaps)
        size = lanes.where(builder.icmp_signed("<", size, lanes.constant(0)), lanes.constant(0), size)

        def gathered(places, further=0):
            made = ir.Constant(lanes.kind, ir.Undefined)
            for lane, place in enumerate(places):
                word = builder.load(builder.gep(source, [builder.add(place, ir.Constant(_I64, further))]))
                made = builder.insert_element(made, word, ir.Constant(_I32, lane))
            return made

        def scalars(vector):
            return [
                builder.zext(builder.extract_element(vector, ir.Constant(_I32, lane)), _I64) for lane in range(LANES)
            ]

        # stripes of 16 bytes: four accumulators
        state = [cgutils.alloca_once_value(builder, lanes.constant(value)) for value in (p1 + p2, p2, 0, 2**32 - p1)]
        reduce = ir.FunctionType(_I32, [lanes.kind])
        most = cgutils.get_or_insert_function(builder.module, reduce, f"llvm.vector.reduce.umax.v{LANES}i32")
        stripes = builder.lshr(builder.call(most, [size]), ir.Constant(_I32, 4))
        with cgutils.for_range(builder, stripes, intp=_I32) as loop:
            done = _splat(builder, builder.shl(loop.index, ir.Constant(_I32, 4)), lanes.kind)
            live = builder.icmp_unsigned(">=", size, lanes.add(done, lanes.constant(16)))
            places = scalars(lanes.add(begin, lanes.where(live, done, lanes.constant(0))))
            for k, accumulator in enumerate(state):
                old = builder.load(accumulator)
                new = lanes.add(old, lanes.times(gathered(places, 4 * k), p2))
                new = lanes.times(lanes.rotated(new, 13), p1)
                builder.store(lanes.where(live, new, old), accumulator)
        joined = lanes.constant(0)
        for accumulator, bits in zip(state, (1, 7, 12, 18), strict=True):
            joined = lanes.add(joined, lanes.rotated(builder.load(accumulator), bits))
        h = lanes.add(lanes.where(lanes.at_least(size, 16), joined, lanes.constant(p5)), size)
        # up to three words, then up to three bytes
        place = lanes.add(begin, lanes.masked(size, -16))
        places, left = scalars(place), lanes.masked(size, 15)
        for k in range(3):
            new = lanes.add(h, lanes.times(gathered(places, 4 * k), p3))
            new = lanes.times(lanes.rotated(new, 17), p4)
            h = lanes.where(lanes.at_least(left, 4 * k + 4), new, h)
        rest = gathered(scalars(lanes.add(place, lanes.masked(left, 12))))
        left = lanes.masked(left, 3)
        for k in range(3):
            byte = lanes.masked(lanes.right(rest, 8 * k), 255)
            new = lanes.times(lanes.rotated(lanes.add(h, lanes.times(byte, p5)), 11), p1)
            h = lanes.where(lanes.at_least(left, k + 1), new, h)
        h = lanes.mixed(h, p2, p3, (15, 13, 16))
        h = lanes.mixed(h, *_MURMUR, (16, 13, 16))
        _store(builder, h, _at(builder, out_data, args[2], lanes.kind), 4)
        return context.get_dummy_value()

    return types.void(words, starts, types.int64, types.int64, types.int64, out), codegen
