"""Tables as they are compared: whole files as pyarrow reads them, types of several spellings as one.

`string`, `large_string`, `string_view` and dictionaries of them are one type; so are the kinds of
binary, of lists, and decimals of one precision and scale whatever their width.
"""

import functools

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def canonical(type):
    """The one spelling of a type."""
    types = pa.types
    if type == pa.uuid():
        return type
    if isinstance(type, pa.BaseExtensionType):
        return canonical(type.storage_type)
    if types.is_dictionary(type):
        return canonical(type.value_type)
    if types.is_large_string(type) or types.is_string_view(type):
        return pa.string()
    if types.is_large_binary(type) or types.is_binary_view(type):
        return pa.binary()
    if types.is_date64(type):
        return pa.date32()
    if types.is_decimal(type):
        return (pa.decimal128 if type.precision <= 38 else pa.decimal256)(type.precision, type.scale)
    if types.is_map(type):
        return pa.map_(canonical(type.key_type), canonical(type.item_type))
    if is_list(type):
        return pa.list_(canonical(type.value_type))
    if types.is_struct(type):
        return pa.struct([pa.field(field.name, canonical(field.type)) for field in type])
    return type


def is_list(type):
    types = pa.types
    return (
        types.is_list(type)
        or types.is_large_list(type)
        or types.is_fixed_size_list(type)
        or types.is_list_view(type)
        or types.is_large_list_view(type)
    )


def array_as(array, type):
    """`array` with `type`, which differs in spelling or is wider. Groups are taken apart by hand, because
    not every cast of what lies in them exists."""
    if array.type == type:
        return array
    if isinstance(array.type, pa.BaseExtensionType):
        return array_as(array.storage, type)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), type)
    if pa.types.is_struct(type):
        children = [array_as(array.field(number), field.type) for number, field in enumerate(type)]
        return pa.StructArray.from_arrays(children, fields=list(type), mask=array.is_null())
    if pa.types.is_map(type):
        array = pa.concat_arrays([array])
        keys, items = array_as(array.keys, type.key_type), array_as(array.items, type.item_type)
        return pa.MapArray.from_arrays(offsets_with_nulls(array), keys, items, type=type)
    if pa.types.is_list(type):
        if not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
            array = array.cast(pa.list_(array.type.value_type))
        values = array_as(array.values, type.value_type)
        return pa.ListArray.from_arrays(offsets_with_nulls(array), values, type=type)
    return array.cast(type)


def offsets_with_nulls(array):
    """The offsets of a list array, NULL where the list is."""
    begins = pc.if_else(array.is_null(), pa.scalar(None, array.offsets.type), array.offsets[:-1])
    return pa.concat_arrays([begins, array.offsets[-1:]]).cast(pa.int32())


def table_as(table, schema):
    columns = [
        pa.chunked_array([array_as(chunk, field.type) for chunk in column.chunks], type=field.type)
        for column, field in zip(table.columns, schema)
    ]
    return pa.table(columns, schema=schema)


def canonical_table(table):
    return table_as(table, pa.schema([pa.field(field.name, canonical(field.type)) for field in table.schema]))


class NotReadable(Exception):
    """The oracle cannot say what the file holds."""


def read_whole(path, **options):
    """All of a file, by a reader that filters nothing."""
    with pq.ParquetFile(path, **options) as file:
        try:
            return file.read()
        except (OSError, pa.ArrowException) as error:
            raise NotReadable(f"{type(error).__name__}: {error}") from error


def wider(left, right):
    """The type that a column has in a set whose files have it as `left` and as `right`."""
    types = pa.types
    if left == right or types.is_null(right):
        return left
    if types.is_null(left):
        return right
    if any(types.is_binary(type) for type in (left, right)) and any(types.is_fixed_size_binary(type) for type in (left, right)):
        return pa.binary()
    if types.is_integer(left) and types.is_integer(right) and types.is_signed_integer(left) == types.is_signed_integer(right):
        return max(left, right, key=lambda type: type.bit_width)
    if types.is_floating(left) and types.is_floating(right):
        return max(left, right, key=lambda type: type.bit_width)
    if types.is_decimal(left) and types.is_decimal(right) and left.scale == right.scale:
        return max(left, right, key=lambda type: type.precision)
    if types.is_timestamp(left) and types.is_timestamp(right) and bool(left.tz) == bool(right.tz):
        finer = max(left.unit, right.unit, key=["s", "ms", "us", "ns"].index)
        return pa.timestamp(finer, left.tz)
    if types.is_time(left) and types.is_time(right):
        return max(left, right, key=lambda type: ["s", "ms", "us", "ns"].index(type.unit))
    if types.is_struct(left) and types.is_struct(right) and left.names == right.names:
        return pa.struct([pa.field(field.name, wider(field.type, right.field(field.name).type)) for field in left])
    if types.is_list(left) and types.is_list(right):
        return pa.list_(wider(left.value_type, right.value_type))
    if types.is_map(left) and types.is_map(right):
        return pa.map_(wider(left.key_type, right.key_type), wider(left.item_type, right.item_type))
    raise ValueError(f"{left} and {right} have no common type")


def as_one(tables):
    """The rows of all tables, in order. A column is where it is first seen; a table without it has NULLs."""
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    fields = []
    for name in names:
        types = [table.schema.field(name).type for table in tables if name in table.column_names]
        fields.append(pa.field(name, functools.reduce(wider, types)))
    schema = pa.schema(fields)
    widened = []
    for table in tables:
        columns = [
            table.column(field.name) if field.name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
            for field in schema
        ]
        widened.append(table_as(pa.table(columns, names=names), schema))
    return pa.concat_tables(widened)


def hive_types(partitions):
    """Per key: integer if the values of all files are, else text. `partitions` are dictionaries, one a file."""
    types = {}
    for key in dict.fromkeys(key for values in partitions for key in values):
        texts = [values[key] for values in partitions if values[key] != HIVE_NULL]
        types[key] = pa.int64() if all(text.lstrip("-").isdigit() for text in texts) else pa.string()
    return types
