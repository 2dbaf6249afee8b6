"""Random columns: types, values, where the NULLs are, and how values are arranged.

What matters to a look-up is not only the type: statistics prune by order, so some columns are sorted
or clustered; dictionaries overflow, so some have few distinct values first and many later; statistics
are truncated or left out, so some strings are long; definition levels differ, so some are required.
"""

import datetime
import decimal
import string
import struct

import pyarrow as pa

# A timestamp or date literal has four digits of year.
YEAR_FIRST, YEAR_LAST = 1, 9999
EPOCH = datetime.date(1970, 1, 1).toordinal()
DAY_FIRST = datetime.date(YEAR_FIRST, 1, 2).toordinal() - EPOCH
DAY_LAST = datetime.date(YEAR_LAST, 12, 30).toordinal() - EPOCH
UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# What 64 bits of nanoseconds hold, with a day to spare.
NANOSECOND_SECONDS_MAX = 2**63 // 10**9 - 86_400
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "+05:30"]

# What a writer does not take from Arrow, or writes as something else.
REFUSED = {
    "pyarrow": pa.types.is_string_view,
    "duckdb": lambda type: pa.types.is_float16(type) or pa.types.is_decimal256(type),
    "polars": lambda type: (
        (pa.types.is_decimal(type) and not pa.types.is_decimal128(type))
        or pa.types.is_map(type)
        or type == pa.uuid()
        or (pa.types.is_timestamp(type) and (type.tz or "").startswith("+"))
    ),
}


def random_leaf_type(rng, writer, depth=0):
    while True:
        type = rng.choice(LEAF_TYPES)(rng)
        # pyarrow does not read its own dictionaries within groups back.
        if not REFUSED[writer](type) and not (depth and pa.types.is_dictionary(type)):
            return type


def random_decimal(rng):
    if rng.random() < 0.05:
        precision = rng.randint(39, 76)
        return pa.decimal256(precision, rng.randint(0, 20))
    make, most = rng.choice([(pa.decimal32, 9), (pa.decimal64, 18), (pa.decimal128, 9), (pa.decimal128, 18), (pa.decimal128, 38)])
    precision = rng.randint(1, most)
    return make(precision, rng.randint(0, precision))


def random_timestamp(rng):
    return pa.timestamp(rng.choice(["s", "ms", "us", "us", "ns"]), rng.choice([None, None, *ZONES]))


LEAF_TYPES = (
    [lambda rng: rng.choice([pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.int64()])] * 4
    + [lambda rng: rng.choice([pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()])] * 2
    + [lambda rng: rng.choice([pa.float32(), pa.float64(), pa.float64(), pa.float16()])] * 3
    + [random_decimal] * 3
    + [lambda rng: rng.choice([pa.string(), pa.string(), pa.string(), pa.large_string(), pa.string_view()])] * 5
    + [lambda rng: pa.dictionary(pa.int32(), pa.string())]
    + [lambda rng: rng.choice([pa.binary(), pa.large_binary()])]
    + [lambda rng: pa.binary(rng.choice([1, 3, 8, 12, 16, 20]))]
    + [lambda rng: pa.bool_()]
    + [lambda rng: rng.choice([pa.date32(), pa.date32(), pa.date64()])]
    + [lambda rng: rng.choice([pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")])]
    + [random_timestamp] * 3
    + [lambda rng: pa.uuid()]
)


def random_field_type(rng, writer, depth=0):
    """A root column's type: a leaf, or groups up to three deep."""
    kind = rng.random()
    if depth == 3 or kind < (0.72 if depth == 0 else 0.6):
        return random_leaf_type(rng, writer, depth)
    if kind < 0.88:
        names = rng.sample(["x", "y", "z", "city", "zip", "Inner", "odd name"], rng.randint(1, 4))
        return pa.struct([pa.field(name, random_field_type(rng, writer, depth + 1)) for name in names])
    if kind < 0.96:
        make = rng.choice([pa.list_, pa.list_, pa.large_list])
        return make(random_field_type(rng, writer, depth + 1))
    map_type = pa.map_(pa.string(), random_leaf_type(rng, writer, depth + 1))
    return random_leaf_type(rng, writer, depth) if REFUSED[writer](map_type) else map_type


class Nulls:
    """Which values of a column are NULL: none, few, many, nearly all, all, or those of some ranges."""

    def __init__(self, rng):
        self.rng = rng
        self.kind = rng.choices(["none", "few", "many", "most", "all", "ranges"], [35, 25, 15, 8, 4, 13])[0]

    def mask(self, count):
        rng = self.rng
        if self.kind == "ranges":
            mask = [False] * count
            for _ in range(rng.randint(1, 4)):
                begin = rng.randint(0, count)
                end = min(count, begin + rng.randint(0, max(1, count // 3)))
                mask[begin:end] = [True] * (end - begin)
            return mask
        share = {"none": 0, "few": 0.02, "many": 0.5, "most": 0.97, "all": 1}[self.kind]
        if share in (0, 1):
            return [share == 1] * count
        return [rng.random() < share for _ in range(count)]


def random_array(rng, type, count):
    """An array of `count` values, and whether the column may be declared as without NULLs."""
    nulls = Nulls(rng)
    mask = nulls.mask(count)
    if pa.types.is_struct(type):
        children, fields = [], []
        for field in type:
            child, required = random_array(rng, field.type, count)
            children.append(child)
            fields.append(pa.field(field.name, child.type, nullable=not (required and rng.random() < 0.5)))
        array = pa.StructArray.from_arrays(children, fields=fields, mask=pa.array(mask, pa.bool_()))
    elif pa.types.is_map(type):
        offsets, total = random_offsets(rng, mask, pa.int32())
        keys = pa.array([f"key {number % 11}" for number in range(total)], pa.string())
        array = pa.MapArray.from_arrays(offsets, keys, random_array(rng, type.item_type, total)[0])
    elif pa.types.is_list(type) or pa.types.is_large_list(type):
        large = pa.types.is_large_list(type)
        offsets, total = random_offsets(rng, mask, pa.int64() if large else pa.int32())
        values = random_array(rng, type.value_type, total)[0]
        array = (pa.LargeListArray if large else pa.ListArray).from_arrays(offsets, values)
    else:
        values = arranged(rng, type, count)
        array = leaf_array([None if null else value for value, null in zip(values, mask)], type)
    return array, nulls.kind == "none"


def random_offsets(rng, mask, type):
    length_max = rng.choice([1, 3, 8])
    offsets, at = [], 0
    for null in mask:
        offsets.append(None if null else at)
        at += 0 if null else rng.randint(0, length_max)
    return pa.array([*offsets, at], type), at


def leaf_array(values, type):
    if type == pa.uuid():
        return pa.ExtensionArray.from_storage(type, pa.array(values, pa.binary(16)))
    if pa.types.is_dictionary(type):
        return pa.array(values, type.value_type).dictionary_encode()
    if pa.types.is_date64(type):
        return pa.array(values, pa.date32()).cast(type)
    return pa.array(values, type)


def arranged(rng, type, count):
    """`count` values: of few or many distinct ones, in order, in clusters or at random."""
    distinct = rng.choice(["one", "few", "some", "many", "many", "few then many"])
    if distinct == "few then many":
        few, rest = pool(rng, type, 4), pool(rng, type, count)
        values = rng.choices(few, k=count // 3) + rest[count // 3 :]
        return values
    size = {"one": 1, "few": 8, "some": 300, "many": count}[distinct]
    values = pool(rng, type, size)
    values = values[:count] if size >= count else rng.choices(values, k=count)
    arrangement = rng.choice(["ascending", "descending", "clusters", "random", "random"])
    if arrangement == "random":
        rng.shuffle(values)
        return values
    values.sort(key=order_key, reverse=arrangement == "descending")
    if arrangement == "clusters":
        run = rng.choice([5, 50, 500])
        runs = [values[begin : begin + run] for begin in range(0, len(values), run)]
        rng.shuffle(runs)
        values = [value for values_of_run in runs for value in values_of_run]
    return values


def order_key(value):
    """NaN first, so that sorting is well defined."""
    return (value == value, value) if isinstance(value, float) else value


def pool(rng, type, size):
    """`size` values of a type, with its corners among them."""
    make, corners = values_of(rng, type)
    values = [make() for _ in range(size)]
    if corners and rng.random() < 0.4:
        for corner in corners:
            if values and rng.random() < 0.7:
                values[rng.randrange(len(values))] = corner
    return values


def integers(rng, low, high):
    kind = rng.choice(["small", "sequence", "whole range"])
    if kind == "small":
        span = rng.choice([5, 100, 5000])
        return (lambda: rng.randint(max(low, -span), min(high, span))), [low, high, 0]
    if kind == "sequence":
        at = [rng.randint(low, max(low, high - 10**6))]

        def following():
            at[0] = low if at[0] >= high - 3 else at[0] + rng.randint(1, 3)
            return at[0]

        return following, []
    return (lambda: rng.randint(low, high)), [low, high, 0]


def floats(rng, pack):
    """Floats that the width holds: rounded to it."""
    corners = [0.0, -0.0, float("inf"), float("-inf")] + [float("nan")] * rng.choice([0, 1])
    largest = {"e": 60_000, "f": 1e30, "d": 1e200}[pack]
    scale = rng.choice([1, 1, 1000, largest])
    digits = rng.choice([0, 1, 2, None])

    def make():
        value = rng.uniform(-scale, scale)
        value = value if digits is None else round(value, digits)
        return struct.unpack(pack, struct.pack(pack, value))[0]

    return make, corners


def decimals(rng, type):
    limit = 10**type.precision - 1
    make, corners = integers(rng, -limit, limit)
    context = decimal.Context(prec=80)

    def scaled(unscaled):
        return decimal.Decimal(unscaled).scaleb(-type.scale, context)

    return (lambda: scaled(make())), [scaled(corner) for corner in corners]


def strings(rng):
    kind = rng.choice(["words", "words", "common prefix", "long", "unicode", "keys", "huge"])
    letters = string.ascii_letters + " '\"%_\\"
    prefix = "".join(rng.choices("abc", k=rng.choice([10, 70, 300])))
    if kind == "words":
        words = ["alpha", "beta", "gamma", "delta", "epsilon", "it's", "Zeta", "eta eta", "theta", "iota"]
        return (lambda: f"{rng.choice(words)}{rng.choice(['', '-', ' '])}{rng.choice(words)}"), [""]
    if kind == "common prefix":
        return (lambda: prefix + "".join(rng.choices("abc0", k=rng.randint(0, 6)))), [prefix, ""]
    if kind == "long":
        return (lambda: "".join(rng.choices(letters, k=rng.randint(0, 400)))), ["", "z" * 500]
    if kind == "unicode":
        alphabet = "aé漢\uffff\U0010ffff😀ß\x7f\u0800"
        return (lambda: "".join(rng.choices(alphabet, k=rng.randint(0, 40)))), ["", "\U0010ffff" * 30, "\uffff" * 70]
    if kind == "keys":
        return (lambda: f"Customer#{rng.randrange(10**9):09d}"), []
    # Longer than what writers keep in statistics.
    return (lambda: prefix if rng.random() < 0.97 else prefix * 20 + str(rng.randrange(10))), ["q" * 6000]


def binaries(rng, length):
    low, high = rng.choice([(0, 255), (250, 255), (0, 3)])

    def make():
        return bytes(rng.randint(low, high) for _ in range(rng.randint(0, 30) if length is None else length))

    if length is None:
        return make, [b"", b"\xff" * 100, b"\x00"]
    return make, [b"\xff" * length, b"\x00" * length]


def instants(rng, type):
    """Counts of the unit since 1970, within years of four digits and 64 bits."""
    unit = UNITS_PER_SECOND[type.unit]
    first, last = DAY_FIRST * 86_400, DAY_LAST * 86_400
    if type.unit == "ns":
        first, last = -NANOSECOND_SECONDS_MAX, NANOSECOND_SECONDS_MAX
    kind = rng.choice(["days", "seconds", "fine", "anywhere"])
    begin = rng.randint(0, 1_700_000_000)
    if kind == "days":
        return (lambda: (begin // 86_400 + rng.randint(0, 900)) * 86_400 * unit), [0]
    if kind == "seconds":
        return (lambda: (begin + rng.randint(0, 10**6)) * unit), [0, -unit]
    if kind == "fine":
        return (lambda: begin * unit + rng.randint(0, 10**7)), [-1, 1]
    return (lambda: rng.randint(first * unit, last * unit)), [first * unit, last * unit]


def values_of(rng, type):
    """A maker of values as pyarrow takes them, and the corners of the type."""
    types = pa.types
    if types.is_boolean(type):
        return (lambda: rng.random() < 0.5), []
    if types.is_integer(type):
        bits = type.bit_width
        return integers(rng, *((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if types.is_signed_integer(type) else (0, 2**bits - 1)))
    if types.is_floating(type):
        return floats(rng, {16: "e", 32: "f", 64: "d"}[type.bit_width])
    if types.is_decimal(type):
        return decimals(rng, type)
    if types.is_dictionary(type):
        return values_of(rng, type.value_type)
    if types.is_string(type) or types.is_large_string(type) or types.is_string_view(type):
        return strings(rng)
    if type == pa.uuid():
        return binaries(rng, 16)
    if types.is_fixed_size_binary(type):
        return binaries(rng, type.byte_width)
    if types.is_binary(type) or types.is_large_binary(type):
        return binaries(rng, None)
    if types.is_date(type):
        near = rng.random() < 0.7
        begin = rng.randint(0, 20_000)
        return (lambda: begin + rng.randint(0, 2500) if near else rng.randint(DAY_FIRST, DAY_LAST)), [DAY_FIRST, DAY_LAST, -1]
    if types.is_time(type):
        unit = UNITS_PER_SECOND[type.unit]
        whole = rng.random() < 0.5
        return (lambda: rng.randrange(86_400) * unit if whole else rng.randrange(86_400 * unit)), [0, 86_400 * unit - 1]
    if types.is_timestamp(type):
        return instants(rng, type)
    raise NotImplementedError(type)
