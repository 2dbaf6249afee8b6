"""File sets: one file, several of one table through its changes, or hive partitions."""

import dataclasses
import os
import shutil

import pyarrow as pa

import tables
import writers
from columns import random_array, random_field_type

COLUMN_NAMES = ["id", "a", "b", "c", "d_1", "amount", "Status", "order", "two words", "größe", "s", "t", "u", "v", "_w", "K9"]
# What a column may have been in older files.
NARROWER = {
    pa.int16(): [pa.int8()],
    pa.int32(): [pa.int8(), pa.int16()],
    pa.int64(): [pa.int8(), pa.int32(), pa.int32()],
    pa.uint32(): [pa.uint8(), pa.uint16()],
    pa.uint64(): [pa.uint32()],
    pa.float64(): [pa.float32()],
}
REGIONS = ["north", "south", "it's", "Ünder", "x y", "10"]


@dataclasses.dataclass
class FileSet:
    """Paths in order, the hive base if there is one, what wrote them, and all of their rows."""

    kind: str
    writers: list
    paths: list
    base: str | None
    table: pa.Table


def narrowed(rng, type):
    if pa.types.is_decimal(type) and type.precision - type.scale >= 2:
        make = pa.decimal128 if type.precision <= 38 else pa.decimal256
        return make(rng.randint(max(1, type.scale), type.precision - 1), type.scale)
    return rng.choice(NARROWER[type]) if type in NARROWER else type


def random_row_count(rng):
    low, high = rng.choices([(0, 3), (4, 300), (300, 4000), (4000, 12_000), (20_000, 40_000)], [4, 25, 45, 20, 6])[0]
    return rng.randint(low, high)


def random_columns(rng, writer):
    count = rng.choices([rng.randint(1, 3), rng.randint(4, 8), rng.randint(9, 14)], [30, 55, 15])[0]
    return {name: random_field_type(rng, writer) for name in rng.sample(COLUMN_NAMES, count)}


def random_table(rng, columns, rows):
    arrays, fields = [], []
    for name, type in columns.items():
        array, required = random_array(rng, type, rows)
        arrays.append(array)
        fields.append(pa.field(name, array.type, nullable=not (required and rng.random() < 0.4)))
    if not arrays:
        return pa.table({"only": pa.array(range(rows), pa.int64())})
    return pa.table(arrays, schema=pa.schema(fields))


def change(rng, columns):
    """The columns as another file of the set has them: some missing, others narrower, in another order."""
    names = [name for name in columns if rng.random() > 0.15] or list(columns)
    if rng.random() < 0.4:
        rng.shuffle(names)
    return {name: narrowed(rng, columns[name]) if rng.random() < 0.3 else columns[name] for name in names}


def readable_file_set(rng, folder):
    """Writes a set of files into `folder`, until one comes out that pyarrow reads: of some hundreds, one
    has a list or a delta encoding that it writes, or lets DuckDB write, and does not read."""
    given_up = []
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        try:
            return random_file_set(rng, folder), given_up
        except tables.NotReadable as error:
            given_up.append(str(error))


def random_file_set(rng, folder):
    kind = rng.choices(["one file", "several files", "hive"], [55, 25, 20])[0]
    if kind == "one file":
        writer = rng.choice(writers.WRITERS)
        path = os.path.join(folder, "only.parquet")
        writers.write(rng, writer, random_table(rng, random_columns(rng, writer), random_row_count(rng)), path)
        return FileSet(kind, [writer], [path], None, read([path], [{}]))
    mixed = rng.random() < 0.25
    writer = rng.choice(writers.WRITERS)
    # What every writer takes, where several write.
    columns = random_columns(rng, "polars" if mixed else writer)
    if mixed:
        columns = {name: taken_by_all(type) for name, type in columns.items()}
    changing = kind == "several files" or rng.random() < 0.3
    keys = rng.sample(["year", "region", "part no"], rng.choice([1, 1, 2])) if kind == "hive" else []
    paths, partitions, used = [], [], []
    rows_max = rng.choice([50, 1500, 5000])
    for number in range(rng.randint(2, 6)):
        values = {key: random_partition_value(rng, key) for key in keys}
        directory = os.path.join(folder, *(f"{key}={value}" for key, value in values.items()))
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, f"part-{number}.parquet")
        writer = rng.choice(writers.WRITERS) if mixed else writer
        here = change(rng, columns) if changing and number > 0 else columns
        if changing and rng.random() < 0.2:
            here = {**here, f"added_{number}": pa.int64()}
        writers.write(rng, writer, random_table(rng, here, rng.randint(0, rows_max)), path, alone=False)
        paths.append(path)
        partitions.append(values)
        used.append(writer)
    return FileSet(kind, used, paths, folder if keys else None, read(paths, partitions))


def taken_by_all(type):
    """A type that every writer takes and writes as the same."""
    if pa.types.is_float16(type) or pa.types.is_nested(type):
        return pa.float64()
    if type == pa.time64("ns"):
        return pa.time64("us")
    return pa.date32() if pa.types.is_date64(type) else type


def random_partition_value(rng, key):
    if rng.random() < 0.1:
        return tables.HIVE_NULL
    return rng.choice(REGIONS) if key == "region" else str(rng.choice([2023, 2024, 2025, 7, -1]))


def read(paths, partitions):
    """All rows of the files, in order, as pyarrow reads them whole."""
    types = tables.hive_types(partitions)
    read = [tables.canonical_table(tables.read_whole(path)) for path in paths]
    whole = tables.as_one(read)
    columns = {name: whole.column(name) for name in whole.column_names}
    # After the columns of all files.
    for key, type in types.items():
        chunks = [
            pa.array([partition_value(values[key], type)] * table.num_rows, type)
            for table, values in zip(read, partitions)
        ]
        columns[key] = pa.chunked_array(chunks, type)
    return pa.table(columns)


def partition_value(text, type):
    if text == tables.HIVE_NULL:
        return None
    return int(text) if pa.types.is_integer(type) else text
