"""Makes the files that look-ups are measured on: `make_files.py DIRECTORY SCALE`. Prints their rows as JSON.

TPC-H's orders and lineitem at SCALE, from DuckDB's generator, written by pyarrow: with its defaults (snappy,
dictionaries, 1 MiB pages, no page index); in 20 files; with rows in random order; with 8 KiB pages, without
dictionaries and with a page index. Beside them, a table of 1,000 columns and 10 row groups.
"""

import glob
import json
import os
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq


def extension(name):
    site = os.path.dirname(os.path.dirname(duckdb.__file__))
    found = glob.glob(f"{site}/duckdb_extension_{name}/extensions/*/{name}.duckdb_extension")
    if len(found) != 1:
        sys.exit(f"DuckDB's extension {name} is not installed: pip install duckdb-extension-{name}")
    return found[0]


def main():
    directory, scale = sys.argv[1], float(sys.argv[2])
    made = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    made.execute(f"LOAD '{extension('tpch')}'")
    # It would stand between the lines that are read.
    made.execute("SET enable_progress_bar = false")
    made.execute(f"CALL dbgen(sf = {scale})")

    def table(query):
        return made.execute(query).to_arrow_table()

    def write(rows, name, **options):
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        pq.write_table(rows, path, **options)

    small_pages = {"data_page_size": 8192, "use_dictionary": False, "write_page_index": True}
    orders = table("SELECT * FROM orders ORDER BY o_orderkey")
    write(orders, "orders.parquet")
    write(orders, "orders-8k.parquet", **small_pages)
    write(table("SELECT * FROM orders ORDER BY hash(o_orderkey)"), "orders-random.parquet")
    part = -(-orders.num_rows // 20)
    for number in range(20):
        write(orders.slice(number * part, part), f"parts/part-{number:02}.parquet")
    lineitem = table("SELECT * FROM lineitem ORDER BY l_orderkey, l_linenumber")
    write(lineitem, "lineitem.parquet")
    wide = pa.table({f"c{column:04}": pa.array(range(100), pa.int64()) for column in range(1000)})
    write(wide, "wide.parquet", row_group_size=10)
    print(json.dumps({"orders": orders.num_rows, "lineitem": lineitem.num_rows}))


main()
