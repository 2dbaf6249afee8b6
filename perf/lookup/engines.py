"""Key look-ups by an engine, one thread: `engines.py ENGINE FILE KEYS`.

Prints a line when it is ready; for each line `SECONDS` on standard input, it looks keys up for so long and
prints how many and in how long, as JSON. The keys are TPC-H's order keys, drawn uniformly. Every answer's row
is looked at.
"""

import json
import os
import sys
import time

os.environ["POLARS_MAX_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"

engine, path, keys = sys.argv[1], sys.argv[2], int(sys.argv[3])
COLUMNS = ["o_orderkey", "o_totalprice", "o_orderdate"]


def with_duckdb(setup, source):
    import duckdb

    db = duckdb.connect(config={"threads": 1})
    db.execute(setup)
    query = f"SELECT {', '.join(COLUMNS)} FROM {source} WHERE o_orderkey = ?"
    return lambda key: db.execute(query, [key]).fetchall()


def duckdb():
    return with_duckdb("SET enable_progress_bar = false", f"read_parquet('{path}')")


def duckdb_index():
    setup = f"CREATE TABLE orders AS SELECT * FROM read_parquet('{path}'); CREATE UNIQUE INDEX k ON orders (o_orderkey)"
    import duckdb

    db = duckdb.connect(config={"threads": 1})
    db.execute("SET enable_progress_bar = false")
    db.execute(setup)
    # Planned once, so that only the look-up is counted.
    db.execute(f"PREPARE l AS SELECT {', '.join(COLUMNS)} FROM orders WHERE o_orderkey = $1")
    return lambda key: db.execute(f"EXECUTE l({key})").fetchall()


def polars():
    import polars as pl

    return lambda key: pl.scan_parquet(path).filter(pl.col("o_orderkey") == key).select(COLUMNS).collect().rows()


def pyarrow():
    import pyarrow as pa
    import pyarrow.dataset as ds

    pa.set_cpu_count(1)
    dataset = ds.dataset(path)

    def look_up(key):
        found = dataset.to_table(columns=COLUMNS, filter=ds.field("o_orderkey") == key, use_threads=False)
        return [tuple(row.values()) for row in found.to_pylist()]

    return look_up


look_up = {"duckdb": duckdb, "duckdb-index": duckdb_index, "polars": polars, "pyarrow": pyarrow}[engine]()
state = 1


def next_key():
    global state
    # Knuth's MMIX generator.
    state = (state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
    number = (state >> 33) % keys + 1
    return number // 8 * 32 + number % 8


def measure(seconds):
    queries, began = 0, time.perf_counter()
    while True:
        key = next_key()
        rows = look_up(key)
        assert len(rows) == 1 and rows[0][0] == key, (key, rows)
        queries += 1
        elapsed = time.perf_counter() - began
        if elapsed >= seconds:
            return {"queries": queries, "seconds": elapsed}


measure(0.2)
print("{}", flush=True)
for line in sys.stdin:
    print(json.dumps(measure(float(line))), flush=True)
