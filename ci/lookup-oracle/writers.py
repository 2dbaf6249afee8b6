"""Writes tables with pyarrow, DuckDB and Polars, with random options of each."""

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq

INTEGER_ENCODINGS = ["PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"]
# DELTA_BINARY_PACKED and BYTE_STREAM_SPLIT are chosen by what the column is in the file, not in Arrow.
ENCODINGS = {
    "BOOLEAN": ["PLAIN", "RLE"],
    "INT32": INTEGER_ENCODINGS,
    "INT64": INTEGER_ENCODINGS,
    "INT96": ["PLAIN"],
    "FLOAT": ["PLAIN", "BYTE_STREAM_SPLIT"],
    "DOUBLE": ["PLAIN", "BYTE_STREAM_SPLIT"],
    "BYTE_ARRAY": ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"],
    "FIXED_LEN_BYTE_ARRAY": ["PLAIN", "DELTA_BYTE_ARRAY", "BYTE_STREAM_SPLIT"],
}
WRITERS = ["pyarrow", "pyarrow", "pyarrow", "pyarrow", "duckdb", "duckdb", "polars"]


def columns_in_file(table, **options):
    """Dotted path and physical type of every leaf, as pyarrow would write it."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.slice(0, 0), sink, **options)
    schema = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [(schema.column(number).path, schema.column(number).physical_type) for number in range(len(schema))]


def write(rng, writer, table, path, alone=True):
    """Writes `table`; if not alone, without what gives columns another type than in the set's other files."""
    if writer == "pyarrow":
        write_with_pyarrow(rng, table, path, alone)
    else:
        {"duckdb": write_with_duckdb, "polars": write_with_polars}[writer](rng, table, path)


def write_with_pyarrow(rng, table, path, alone):
    schema_options = {
        "version": rng.choices(["2.6", "2.4", "1.0"], [85, 10, 5 if alone else 0])[0],
        "store_schema": rng.random() < 0.75,
        "store_decimal_as_integer": rng.random() < 0.5,
        "use_deprecated_int96_timestamps": alone and rng.random() < 0.04 and is_flat(table.schema),
        "allow_truncated_timestamps": True,
        "use_compliant_nested_type": rng.random() < 0.9,
    }
    if schema_options["version"] != "2.6" and not schema_options["use_deprecated_int96_timestamps"]:
        # These versions have no nanoseconds.
        schema_options["coerce_timestamps"] = "us"
    leaves = columns_in_file(table, **schema_options)
    options = {
        "compression": rng.choice(["snappy", "snappy", "gzip", "brotli", "lz4", "zstd", "none"]),
        "data_page_version": rng.choice(["1.0", "1.0", "2.0"]),
        "data_page_size": rng.choice([None, 64, 512, 8192, 65_536]),
        "row_group_size": rng.choice([None, max(10, table.num_rows // rng.randint(2, 20)), 1000]),
        "write_batch_size": rng.choice([None, 16, 128]),
        "max_rows_per_page": rng.choice([None, None, 50, 1000]),
        "write_page_index": rng.random() < 0.5,
        "write_page_checksum": rng.random() < 0.2,
        "write_statistics": rng.choice([True, True, True, False, [leaf for leaf, _ in leaves if rng.random() < 0.5]]),
    }
    if rng.random() < 0.2:
        options["compression"] = {leaf: rng.choice(["snappy", "gzip", "zstd", "none"]) for leaf, _ in leaves}
    dictionaries = rng.choice(["all", "all", "some", "none"])
    if dictionaries == "all":
        options["use_dictionary"] = True
    else:
        plain = [leaf for leaf in leaves if dictionaries == "none" or rng.random() < 0.6]
        encoded = [leaf for leaf, _ in leaves if leaf not in [name for name, _ in plain]]
        options["use_dictionary"] = encoded or False
        options["column_encoding"] = {
            leaf: rng.choice(ENCODINGS[physical]) for leaf, physical in plain if rng.random() < 0.85
        }
        if any("dictionary" in str(type) for type in table.schema.types):
            # pyarrow does not read its own deltas back into Arrow's dictionaries.
            encodings = options["column_encoding"].items()
            options["column_encoding"] = {leaf: encoding for leaf, encoding in encodings if not encoding.endswith("BYTE_ARRAY")}
        options["column_encoding"] = options["column_encoding"] or None
    if dictionaries != "none":
        options["dictionary_pagesize_limit"] = rng.choice([None, None, 64, 1024, 16_384])
    blooms = {}
    for leaf, physical in leaves:
        if physical != "BOOLEAN" and rng.random() < 0.3:
            blooms[leaf] = {"ndv": rng.choice([1, 1000]), "fpp": rng.choice([0.001, 0.05, 0.5])}
    if blooms and rng.random() < 0.6:
        options["bloom_filter_options"] = blooms
    pq.write_table(table, path, **schema_options, **options)


def is_flat(schema):
    return not any(pa.types.is_nested(field.type) for field in schema)


def write_with_duckdb(rng, table, path):
    options = ["FORMAT parquet", f"CODEC {rng.choice(['snappy', 'snappy', 'zstd', 'gzip', 'brotli', 'lz4_raw', 'uncompressed'])}"]
    options.append(f"ROW_GROUP_SIZE {rng.choice([2048, 4096, 122_880])}")
    if rng.random() < 0.4:
        options.append("PARQUET_VERSION V2")
    if rng.random() < 0.4:
        options.append(f"DICTIONARY_SIZE_LIMIT {rng.choice([1, 20, 2000])}")
    if rng.random() < 0.3:
        options.append(f"STRING_DICTIONARY_PAGE_SIZE_LIMIT {rng.choice([64, 4096])}")
    if rng.random() < 0.3:
        options.append(f"BLOOM_FILTER_FALSE_POSITIVE_RATIO {rng.choice([0.5, 0.001])}")
    if rng.random() < 0.15:
        options.append("WRITE_BLOOM_FILTER false")
    with duckdb.connect(config={"threads": 1}) as db:
        db.register("written", table)
        quoted = path.replace("'", "''")
        db.execute(f"COPY (SELECT * FROM written) TO '{quoted}' ({', '.join(options)})")


def write_with_polars(rng, table, path):
    polars.from_arrow(table).write_parquet(
        path,
        compression=rng.choice(["zstd", "snappy", "gzip", "brotli", "lz4", "uncompressed"]),
        statistics=rng.choice([True, True, "full", False]),
        row_group_size=rng.choice([None, max(10, table.num_rows // rng.randint(2, 10))]),
        data_page_size=rng.choice([None, 256, 8192]),
    )
