"""Predicates: random trees, their text, and what they mean.

A tree is a tuple: `("and", trees)`, `("or", trees)`, `("compare", path, operator, literal)`,
`("between", path, low, high)`, `("in", path, literals)`, `("prefix", path, literal)`,
`("null", path)`, `("not null", path)`. A path is a tuple of names. A literal is `(kind, text)`, with
the kinds `number`, `boolean`, `date` (written as they are), `text` (quoted) and `binary` (hexadecimal).

`matches` is the meaning, value by value over Python's exact integers and decimals. It shares nothing
with an engine's filters. NULL never matches except IS NULL; a NaN compares with nothing, so `<>` holds
for it; literals get the column's type, but integers, decimals and instants compare exactly.
"""

import datetime
import decimal
import math
import operator
import re
import struct
import uuid

import pyarrow as pa
import pyarrow.compute as pc

from columns import DAY_FIRST, DAY_LAST, EPOCH, UNITS_PER_SECOND

OPERATORS = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
RESERVED = {"and", "or", "not", "in", "like", "is", "null", "between", "true", "false", "select", "order", "where"}
NANOSECONDS = {unit: 10**9 // count for unit, count in UNITS_PER_SECOND.items()}
DECIMALS = decimal.Context(prec=200)


def is_text(type):
    return pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)


def is_bytes(type):
    return pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_fixed_size_binary(type)


def is_comparable(type):
    return (
        pa.types.is_boolean(type)
        or pa.types.is_integer(type)
        or pa.types.is_floating(type)
        or pa.types.is_decimal(type)
        or pa.types.is_date(type)
        or pa.types.is_time(type)
        or pa.types.is_timestamp(type)
        or is_text(type)
        or is_bytes(type)
        or type == pa.uuid()
    )


def leaf_paths(schema, with_groups=False):
    """Path and type of what lies in no list or map; with groups, those lists, maps and structs too."""
    found = []

    def walk(path, type):
        if pa.types.is_struct(type):
            if with_groups:
                found.append((path, type))
            for field in type:
                walk((*path, field.name), field.type)
        elif with_groups or not pa.types.is_nested(type):
            found.append((path, type))

    for field in schema:
        walk((field.name,), field.type)
    return found


# What literals and values mean


def column_at(table, path):
    column = table.column(path[0])
    for name in path[1:]:
        # NULL where the struct is.
        column = pc.struct_field(column, name)
    return column


def comparable_values(column):
    """The values as Python compares them: instants and times in nanoseconds, dates in days, text as bytes."""
    type = column.type
    if type == pa.uuid():
        column, type = column.cast(pa.binary(16)), pa.binary(16)
    if pa.types.is_dictionary(type):
        return comparable_values(column.cast(type.value_type))
    if pa.types.is_date64(type):
        return comparable_values(column.cast(pa.date32()))
    if pa.types.is_date32(type):
        return column.cast(pa.int32()).to_pylist()
    if pa.types.is_time(type) or pa.types.is_timestamp(type):
        factor = NANOSECONDS[type.unit]
        whole = pa.int32() if pa.types.is_time32(type) else pa.int64()
        return [None if value is None else value * factor for value in column.cast(whole).to_pylist()]
    if is_text(type):
        return column.cast(pa.large_binary()).to_pylist()
    return column.to_pylist()


def instant(text):
    """Nanoseconds since 1970 of a timestamp's text; without a zone it is UTC."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?", text)
    date, hours, minutes, seconds, fraction, zone = found.groups()
    total = days(date) * 86_400 + int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    if zone and zone != "Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        total -= -offset if zone[0] == "-" else offset
    return total * 10**9 + int((fraction or "0").ljust(9, "0"))


def days(text):
    return datetime.date.fromisoformat(text).toordinal() - EPOCH


def literal_value(literal, type):
    """A literal as a value that compares with the column's."""
    kind, text = literal
    if pa.types.is_boolean(type):
        return text == "true"
    if pa.types.is_floating(type):
        value = float(text)
        width = {16: "e", 32: "f", 64: "d"}[type.bit_width]
        return struct.unpack(width, struct.pack(width, value))[0]
    if pa.types.is_integer(type) or pa.types.is_decimal(type):
        return DECIMALS.create_decimal(text)
    if pa.types.is_date(type):
        return days(text)
    if pa.types.is_time(type):
        return instant(f"1970-01-01T{text}")
    if pa.types.is_timestamp(type):
        return instant(text)
    if type == pa.uuid():
        return uuid.UUID(text).bytes
    if kind == "binary":
        return bytes.fromhex(text)
    return text.encode()


class Rows:
    """The rows of a file set as the predicates see them; what was asked for once is kept."""

    def __init__(self, table):
        self.table = table
        self.types = dict(leaf_paths(table.schema))
        self.values = {}

    def of(self, path):
        if path not in self.values:
            self.values[path] = comparable_values(column_at(self.table, path))
        return self.values[path]


def matches(tree, rows):
    """For every row, whether the predicate holds."""
    kind = tree[0]
    if kind in ("and", "or"):
        parts = [matches(part, rows) for part in tree[1]]
        if not parts:
            return [kind == "and"] * rows.table.num_rows
        return [(all if kind == "and" else any)(bits) for bits in zip(*parts)]
    values, type = rows.of(tree[1]), rows.types[tree[1]]
    if kind == "null":
        return [value is None for value in values]
    if kind == "not null":
        return [value is not None for value in values]
    if kind == "compare":
        test, literal = OPERATORS[tree[2]], literal_value(tree[3], type)
        return [value is not None and test(value, literal) for value in values]
    if kind == "between":
        low, high = literal_value(tree[2], type), literal_value(tree[3], type)
        return [value is not None and low <= value <= high for value in values]
    if kind == "in":
        wanted = {literal_value(literal, type) for literal in tree[2]}
        return [value is not None and value in wanted for value in values]
    if kind == "prefix":
        prefix = literal_value(tree[2], type)
        return [value is not None and value.startswith(prefix) for value in values]
    raise NotImplementedError(kind)


# Text


def name_text(name, rng=None):
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name, re.IGNORECASE) and name.lower() not in RESERVED
    if plain and not (rng and rng.random() < 0.1):
        return name
    return '"' + name.replace('"', '""') + '"'


def literal_text(literal):
    kind, text = literal
    if kind == "text":
        return "'" + text.replace("'", "''") + "'"
    return f"x'{text}'" if kind == "binary" else text


def text_of(tree, rng=None):
    """The predicate's text; with `rng`, words in either case, quotes and blanks that are not needed."""

    def word(text):
        return text.upper() if rng and rng.random() < 0.2 else text

    def path_text(path):
        return ".".join(name_text(name, rng) for name in path)

    blank = "" if rng and rng.random() < 0.1 else " "
    kind = tree[0]
    if kind in ("and", "or"):
        parts = []
        for part in tree[1]:
            inner = text_of(part, rng)
            needed = part[0] == "or" and kind == "and"
            parts.append(f"({inner})" if needed or (part[0] in ("and", "or") and (not rng or rng.random() < 0.5)) else inner)
        return f" {word(kind)} ".join(parts)
    column = path_text(tree[1])
    if kind == "null":
        return f"{column} {word('is')} {word('null')}"
    if kind == "not null":
        return f"{column} {word('is')} {word('not')} {word('null')}"
    if kind == "compare":
        return f"{column}{blank}{tree[2]}{blank}{literal_text(tree[3])}"
    if kind == "between":
        return f"{column} {word('between')} {literal_text(tree[2])} {word('and')} {literal_text(tree[3])}"
    if kind == "in":
        return f"{column} {word('in')}{blank}(" + f",{blank}".join(literal_text(literal) for literal in tree[2]) + ")"
    if kind == "prefix":
        pattern = tree[2][0], tree[2][1] + "%"
        return f"{column} {word('like')} {literal_text(pattern)}"
    raise NotImplementedError(kind)


# Random trees


def random_tree(rng, rows, paths, depth=0):
    chance = rng.random()
    if depth < 3 and chance < (0.45 if depth == 0 else 0.2):
        kind = rng.choice(["and", "or"])
        return kind, [random_tree(rng, rows, paths, depth + 1) for _ in range(rng.randint(2, 4 if depth == 0 else 2))]
    path, type = rng.choice(paths)
    values = rows.of(path)
    kind = rng.choices(["compare", "in", "between", "null", "not null", "prefix"], [60, 14, 8, 8, 4, 8])[0]
    if kind in ("null", "not null"):
        return kind, path
    if kind == "prefix":
        prefix = random_prefix(rng, values) if is_text(type) else None
        if prefix is not None:
            return kind, path, ("text", prefix)
        kind = "compare"
    if kind == "in":
        count = rng.choices([1, 3, 10, 200], [20, 50, 25, 5])[0]
        return kind, path, [random_literal(rng, type, values) for _ in range(count)]
    if kind == "between":
        low, high = random_literal(rng, type, values), random_literal(rng, type, values)
        if rng.random() < 0.9 and literal_value(low, type) > literal_value(high, type):
            low, high = high, low
        return kind, path, low, high
    comparison = rng.choices(list(OPERATORS), [50, 8, 10, 10, 10, 10])[0]
    return "compare", path, comparison, random_literal(rng, type, values)


def random_prefix(rng, values):
    """The beginning of a value, without what LIKE treats as special."""
    value = pick(rng, values)
    text = "" if value is None else value.decode()
    text = re.split(r"[%_\\]", text[: rng.choice([0, 1, 2, 3, 8, 8, 100])])[0]
    return text + rng.choice(["", "", "", "b"])


def pick(rng, values):
    """One of the values that is not NULL; None where there is none."""
    for _ in range(20):
        value = rng.choice(values) if values else None
        if value is not None:
            return value
    return next((value for value in values if value is not None), None)


def random_literal(rng, type, values):
    """A literal that occurs, that lies near one that does, or that lies far from all."""
    value = pick(rng, values)
    near = rng.random() < 0.4
    if pa.types.is_boolean(type):
        return "boolean", rng.choice(["true", "false"])
    if pa.types.is_integer(type):
        return random_integer(rng, type, value, near)
    if pa.types.is_floating(type):
        return random_float(rng, type, value, near)
    if pa.types.is_decimal(type):
        value = decimal.Decimal("1.5") if value is None else value
        if near:
            step = decimal.Decimal(1).scaleb(-type.scale - rng.choice([0, 0, 1, 3]))
            value = DECIMALS.add(value, step * rng.choice([-1, 1, 7]))
        text = format(value, "f")
        return "number", text.rstrip("0").rstrip(".") if "." in text and rng.random() < 0.3 else text
    if pa.types.is_date(type):
        value = 9000 if value is None else value
        value = min(max(value + (rng.randint(-40, 40) if near else 0), DAY_FIRST), DAY_LAST)
        return rng.choice(["date", "text"]), date_text(value)
    if pa.types.is_time(type):
        value = 0 if value is None else value
        value = (value + (rng.choice([-1, 1, 1000]) * NANOSECONDS[type.unit] if near else 0)) % (86_400 * 10**9)
        return "text", clock_text(rng, value)
    if pa.types.is_timestamp(type):
        return random_instant(rng, type, value, near)
    if type == pa.uuid():
        value = bytes(rng.randrange(256) for _ in range(16)) if near or value is None else value
        return "text", str(uuid.UUID(bytes=value))
    if is_bytes(type):
        value = b"\x00" * (type.byte_width if pa.types.is_fixed_size_binary(type) else 2) if value is None else value
        if near and value:
            at = rng.randrange(len(value))
            value = value[:at] + bytes([(value[at] + 1) % 256]) + value[at + 1 :]
        return "binary", value.hex()
    text = "" if value is None else value.decode()
    if near:
        text = rng.choice([text + "x", text[:-1], text[: len(text) // 2], "zzzz", "", text + "\U0010ffff", "漢字"])
    return "text", text


def random_integer(rng, type, value, near):
    value = 7 if value is None else value
    if not near:
        return "number", str(value)
    bits = type.bit_width
    return "number", rng.choice(
        [
            str(value + rng.choice([-1, 1, 2, 1000])),
            f"{value}.5",
            f"{value}.0",
            # Not of the column's type: still compared as numbers.
            str(2**bits + 1),
            str(-(2 ** (bits - 1)) - 1),
            "0",
        ]
    )


def random_float(rng, type, value, near):
    if value is None or not math.isfinite(value):
        value = 0.5
    largest = {16: 60_000, 32: 1e38, 64: 1e300}[type.bit_width]
    if near:
        value = rng.choice([value + 0.25, value * 1.0000001, -value, 0.0, 0.1, largest, -largest, round(value, 1)])
    value = min(max(value, -largest), largest)
    if value == int(value) and abs(value) < 2**53 and rng.random() < 0.3:
        return "number", str(int(value))
    if not near:
        # Enough digits for the width; for the narrow ones these are another double.
        return "number", format(value, {16: ".5g", 32: ".9g", 64: ".17g"}[type.bit_width])
    return "number", repr(value)


def random_instant(rng, type, value, near):
    value = 1_600_000_000 * 10**9 if value is None else value
    if near:
        value += rng.choice([-1, 1, 1000, 86_400 * UNITS_PER_SECOND[type.unit]]) * NANOSECONDS[type.unit]
    shift, zone = 0, ""
    if type.tz:
        shift, zone = rng.choice([(0, "Z"), (0, ""), (0, "+00:00"), (7200, "+02:00"), (-19_800, "-05:30")])
    day, rest = divmod(value + shift * 10**9, 86_400 * 10**9)
    if not DAY_FIRST <= day <= DAY_LAST:
        day = 0
    if rest == 0 and not zone and rng.random() < 0.5:
        return rng.choice(["date", "text"]), date_text(day)
    return "text", date_text(day) + rng.choice("T ") + clock_text(rng, rest) + zone


def date_text(day):
    return datetime.date.fromordinal(day + EPOCH).isoformat()


def clock_text(rng, nanoseconds):
    seconds, fraction = divmod(nanoseconds, 10**9)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    if fraction:
        digits = f"{fraction:09d}".rstrip("0")
        text += "." + (digits.ljust(rng.choice([3, 6, 9]), "0"))
    return text
