"""DuckDB and Polars: TPC-H over the worker gives the answers that it gives over local files."""

import glob
import os
import sys

import duckdb
import polars as pl
from polars.testing import assert_frame_equal

SCALE = 0.05


def extension(name):
    site = os.path.dirname(os.path.dirname(duckdb.__file__))
    found = glob.glob(f"{site}/duckdb_extension_{name}/extensions/*/{name}.duckdb_extension")
    assert len(found) == 1, found
    return found[0]


def connect():
    db = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    for name in ["tpch", "httpfs"]:
        db.execute(f"LOAD '{extension(name)}'")
    endpoint = os.environ["AWS_ENDPOINT_URL"].split("://")[1]
    db.execute(f"""CREATE SECRET (TYPE s3, KEY_ID '{os.environ["AWS_ACCESS_KEY_ID"]}', SECRET '{os.environ["AWS_SECRET_ACCESS_KEY"]}',
                   ENDPOINT '{endpoint}', URL_STYLE 'path', USE_SSL false, REGION 'us-east-1')""")
    return db


TABLES = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]
here = os.path.join(os.getcwd(), "tpch")
os.makedirs(here)
maker = connect()
maker.execute(f"CALL dbgen(sf = {SCALE})")
for table in TABLES:
    maker.execute(f"COPY {table} TO '{here}/{table}.parquet' (FORMAT parquet, ROW_GROUP_SIZE 20000)")
    # Written through the worker as well.
    maker.execute(f"COPY {table} TO 's3://lake/tpch/{table}.parquet' (FORMAT parquet, ROW_GROUP_SIZE 20000)")
    local = open(f"{here}/{table}.parquet", "rb").read()
    remote = maker.execute(f"SELECT content FROM read_blob('s3://lake/tpch/{table}.parquet')").fetchone()[0]
    assert len(local) == len(remote), table


def over(root):
    db = connect()
    for table in TABLES:
        db.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{root}/{table}.parquet')")
    return db


local, remote = over(here), over("s3://lake/tpch")
for number, text in maker.execute("SELECT query_nr, query FROM tpch_queries()").fetchall():
    assert local.execute(text).fetchall() == remote.execute(text).fetchall(), f"query {number}"
assert remote.execute("SELECT count(*) FROM read_parquet('s3://lake/tpch/n*.parquet')").fetchone() == (25,)
print("  DuckDB: 22 queries")

options = {"aws_endpoint_url": os.environ["AWS_ENDPOINT_URL"], "aws_allow_http": "true"}


def frames(root):
    return {table: pl.scan_parquet(f"{root}/{table}.parquet", storage_options=options if root.startswith("s3") else None) for table in TABLES}


def pricing_summary(t):
    return (t["lineitem"].filter(pl.col("l_shipdate") <= pl.date(1998, 9, 2)).group_by("l_returnflag", "l_linestatus")
            .agg(pl.sum("l_quantity"), pl.mean("l_extendedprice"), pl.len()).sort("l_returnflag", "l_linestatus"))


def shipping_priority(t):
    return (t["customer"].filter(pl.col("c_mktsegment") == "BUILDING").join(t["orders"], left_on="c_custkey", right_on="o_custkey")
            .join(t["lineitem"], left_on="o_orderkey", right_on="l_orderkey")
            .filter(pl.col("o_orderdate") < pl.date(1995, 3, 15), pl.col("l_shipdate") > pl.date(1995, 3, 15))
            .group_by("o_orderkey", "o_orderdate").agg(pl.sum("l_extendedprice")).sort("o_orderkey"))


def local_supplier_volume(t):
    return (t["region"].filter(pl.col("r_name") == "ASIA").join(t["nation"], left_on="r_regionkey", right_on="n_regionkey")
            .join(t["supplier"], left_on="n_nationkey", right_on="s_nationkey")
            .join(t["lineitem"], left_on="s_suppkey", right_on="l_suppkey").group_by("n_name").agg(pl.sum("l_extendedprice")).sort("n_name"))


def revenue_change(t):
    return t["lineitem"].filter(pl.col("l_discount").is_between(0.05, 0.07), pl.col("l_quantity") < 24).select(pl.sum("l_extendedprice"))


def point(t):
    return t["orders"].filter(pl.col("o_orderkey") == 4711 // 32 * 32 + 7).select("o_orderkey", "o_totalprice", "o_comment")


near, far = frames(here), frames("s3://lake/tpch")
for query in [pricing_summary, shipping_priority, local_supplier_volume, revenue_change, point]:
    assert_frame_equal(query(near).collect(), query(far).collect())
pl.read_parquet(f"{here}/orders.parquet").write_parquet("s3://lake/tpch/written.parquet", storage_options=options)
assert_frame_equal(pl.read_parquet("s3://lake/tpch/written.parquet", storage_options=options), pl.read_parquet(f"{here}/orders.parquet"))
print("  Polars: 5 queries, one file written")
