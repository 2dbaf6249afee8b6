"""What DuckDB and pyarrow.dataset answer, where they can be asked the same.

They are a check of the evaluator, so what is known to differ is left out: DuckDB orders NaN last and
equal to itself, has microseconds only for zoned instants and INT96, and no float16 (it reads float32);
in bloom filters it looks up 0.0 but not -0.0.
"""

import math

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

import predicates


class NotComparable(Exception):
    """The engine does not mean the same, or cannot be asked."""


def answers(path, tree, rows):
    """Engine and the numbers of the rows that it finds, for each; or None and why it was not asked."""
    found = []
    for engine, ask in [("DuckDB", ask_duckdb), ("pyarrow.dataset", ask_dataset)]:
        try:
            found.append((engine, ask(path, tree, rows), None))
        except NotComparable as why:
            found.append((engine, None, str(why)))
    return found


# DuckDB

database = None


def ask_duckdb(path, tree, rows):
    global database
    if database is None:
        database = duckdb.connect(config={"threads": 1})
        database.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    if "int96" in str(pq.ParquetFile(path).schema):
        raise NotComparable("INT96")
    where = sql(tree, rows)
    try:
        found = database.execute(
            f"SELECT file_row_number FROM read_parquet('{path}', file_row_number = true, hive_partitioning = false) WHERE {where}"
        ).fetchall()
    except duckdb.Error as error:
        # What it does not read, such as BYTE_STREAM_SPLIT of integers.
        raise NotComparable(f"refused: {error}") from error
    return sorted(number for (number,) in found)


def sql(tree, rows):
    kind = tree[0]
    if kind in ("and", "or"):
        return "(" + f" {kind} ".join(sql(part, rows) for part in tree[1]) + ")" if tree[1] else "true"
    path, type = tree[1], rows.types[tree[1]]
    column = ".".join('"' + name + '"' for name in path)
    if pa.types.is_float16(type) or (pa.types.is_decimal(type) and type.precision > 38):
        raise NotComparable(type)
    if pa.types.is_timestamp(type) and (type.unit == "ns" or type.tz):
        if type.unit == "ns" and type.tz:
            raise NotComparable(type)
    if pa.types.is_time(type) and type.unit == "ns":
        raise NotComparable(type)
    if pa.types.is_floating(type) and any(value is not None and math.isnan(value) for value in rows.of(path)):
        raise NotComparable("NaN")
    if kind == "null":
        return f"{column} IS NULL"
    if kind == "not null":
        return f"{column} IS NOT NULL"
    if predicates.is_bytes(type):
        # Its readers look the escaped text of a blob up in bloom filters; what is computed is not pruned by.
        column = f"({column} || ''::BLOB)"
    if kind == "compare":
        return f"{column} {tree[2]} {sql_literal(tree[3], type)}"
    if kind == "between":
        return f"{column} BETWEEN {sql_literal(tree[2], type)} AND {sql_literal(tree[3], type)}"
    if kind == "in":
        if len(tree[2]) > 50:
            raise NotComparable("seconds for a long list")
        # An IN list is brought to one type, which may not be the column's.
        return "(" + " OR ".join(f"{column} = {sql_literal(literal, type)}" for literal in tree[2]) + ")"
    return f"starts_with({column}, {sql_literal(tree[2], type)})"


def sql_literal(literal, type):
    kind, text = literal
    quoted = "'" + text.replace("'", "''") + "'"
    if pa.types.is_floating(type):
        if float(text) == 0:
            raise NotComparable("a zero of either sign")
        return f"{quoted}::{'FLOAT' if type.bit_width == 32 else 'DOUBLE'}"
    if pa.types.is_date(type):
        return f"DATE {quoted}"
    if pa.types.is_timestamp(type):
        if type.tz:
            return f"({quoted}::TIMESTAMPTZ)"
        return f"{quoted}::{'TIMESTAMP_NS' if type.unit == 'ns' else 'TIMESTAMP'}"
    if pa.types.is_time(type):
        return f"TIME {quoted}"
    if kind == "binary":
        return "'" + "".join(f"\\x{text[at : at + 2]}" for at in range(0, len(text), 2)) + "'::BLOB"
    if kind == "number" and len(text.strip("-").replace(".", "")) > 38:
        raise NotComparable("more digits than a decimal has")
    return quoted if kind == "text" else text


# pyarrow.dataset


def ask_dataset(path, tree, rows):
    """Counts what the file's scan finds, where statistics prune, and numbers the rows by a scan in memory."""
    expression = dataset_expression(tree, rows)
    dataset = ds.dataset(path, format="parquet", partitioning=None)
    number = "row number of the oracle"
    numbered = ds.dataset(rows.table.append_column(number, pa.array(range(rows.table.num_rows), pa.int64())))
    try:
        scanned = dataset.scanner(filter=expression, columns=[], use_threads=False).count_rows()
        found = numbered.to_table(filter=expression, columns=[number], use_threads=False).column(0).to_pylist()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, OSError) as error:
        raise NotComparable(f"refused: {error}") from error
    # A count that differs has no rows to show.
    return found if len(found) == scanned else [-1 - scanned, *found]


def dataset_expression(tree, rows):
    kind = tree[0]
    if kind in ("and", "or"):
        parts = [dataset_expression(part, rows) for part in tree[1]]
        whole = parts[0] if parts else pc.scalar(kind == "and")
        for part in parts[1:]:
            whole = whole & part if kind == "and" else whole | part
        return whole
    path, type = tree[1], rows.types[tree[1]]
    column = pc.field(*path) if len(path) > 1 else pc.field(path[0])
    if kind == "null":
        return column.is_null()
    if kind == "not null":
        return column.is_valid()
    if kind == "compare":
        return compared(column, tree[2], dataset_literal(tree[3], type))
    if kind == "between":
        low, high = dataset_literal(tree[2], type), dataset_literal(tree[3], type)
        return (column >= low) & (column <= high)
    if kind == "in":
        # No `isin`: it finds NaN.
        whole = pc.scalar(False)
        for literal in tree[2]:
            whole = whole | (column == dataset_literal(literal, type))
        return whole
    return pc.starts_with(column, tree[2][1])


def compared(column, operator, literal):
    return predicates.OPERATORS[operator](column, literal)


def dataset_literal(literal, type):
    """The literal with the column's type; where that does not hold it, there is nothing to ask."""
    value = predicates.literal_value(literal, type)
    try:
        if pa.types.is_timestamp(type) or pa.types.is_time(type):
            unit = predicates.NANOSECONDS[type.unit]
            if value % unit:
                raise NotComparable("finer than the column")
            return pa.scalar(value // unit, type)
        if pa.types.is_integer(type):
            if value != int(value):
                raise NotComparable("not an integer")
            return pa.scalar(int(value), type)
        if predicates.is_text(type):
            return pa.scalar(value.decode(), type)
        return pa.scalar(value, type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError) as error:
        raise NotComparable(str(error)) from error
