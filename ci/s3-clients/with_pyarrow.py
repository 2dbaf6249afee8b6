"""pyarrow (the AWS SDK for C++): file system calls, and a dataset written and read."""

import os

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

endpoint = os.environ["AWS_ENDPOINT_URL"].split("://")[1]
fs = pafs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1",
                       access_key=os.environ["AWS_ACCESS_KEY_ID"], secret_key=os.environ["AWS_SECRET_ACCESS_KEY"])
data = os.urandom(11_000_001)
fs.create_dir("lake/pyarrow")
with fs.open_output_stream("lake/pyarrow/bytes") as stream:
    stream.write(data)
with fs.open_input_file("lake/pyarrow/bytes") as file:
    assert file.read() == data
    assert file.read_at(100, 10_999_950) == data[10_999_950:10_999_950 + 100]
info = fs.get_file_info("lake/pyarrow/bytes")
assert info.type == pafs.FileType.File and info.size == len(data)
assert fs.get_file_info("lake/pyarrow").type == pafs.FileType.Directory
assert fs.get_file_info("lake/pyarrow/none").type == pafs.FileType.NotFound
fs.copy_file("lake/pyarrow/bytes", "lake/pyarrow/copy")
assert fs.open_input_stream("lake/pyarrow/copy").read() == data
fs.move("lake/pyarrow/copy", "lake/pyarrow/moved")
assert fs.get_file_info("lake/pyarrow/copy").type == pafs.FileType.NotFound

table = pa.table({"id": range(200_000), "part": [n % 4 for n in range(200_000)], "text": [f"row {n}" for n in range(200_000)]})
pq.write_table(table, "lake/pyarrow/table.parquet", filesystem=fs)
assert pq.read_table("lake/pyarrow/table.parquet", filesystem=fs).equals(table)
ds.write_dataset(table, "lake/pyarrow/set", filesystem=fs, format="parquet", partitioning=["part"], partitioning_flavor="hive")
read = ds.dataset("lake/pyarrow/set", filesystem=fs, format="parquet", partitioning="hive").to_table()
assert read.num_rows == 200_000 and sorted(read["id"].to_pylist()) == list(range(200_000))
assert ds.dataset("lake/pyarrow/set", filesystem=fs, partitioning="hive").to_table(filter=ds.field("id") == 77_777)["text"].to_pylist() == ["row 77777"]
fs.delete_dir("lake/pyarrow")
assert fs.get_file_info("lake/pyarrow/bytes").type == pafs.FileType.NotFound
