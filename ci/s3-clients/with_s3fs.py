"""s3fs (fsspec): files, folders, random access."""

import os

import s3fs

fs = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
assert "lake" in fs.ls("")
data = os.urandom(12_345_678)
with fs.open("lake/s3fs/dir/file", "wb", block_size=5 << 20) as file:
    file.write(data)
assert fs.cat("lake/s3fs/dir/file") == data
with fs.open("lake/s3fs/dir/file", "rb", block_size=1 << 20) as file:
    for offset in [12_345_000, 0, 5_000_000, 77]:
        file.seek(offset)
        assert file.read(10_000) == data[offset:offset + 10_000]
ranges = fs.cat_ranges(["lake/s3fs/dir/file"] * 3, [0, 100, 12_345_670], [10, 200, 12_345_678])
assert ranges == [data[:10], data[100:200], data[-8:]]
fs.pipe("lake/s3fs/dir/small", b"small")
assert sorted(fs.ls("lake/s3fs/dir")) == ["lake/s3fs/dir/file", "lake/s3fs/dir/small"]
assert fs.info("lake/s3fs/dir/small")["size"] == 5 and fs.isdir("lake/s3fs/dir")
fs.cp("lake/s3fs/dir/small", "lake/s3fs/copy")
assert fs.cat("lake/s3fs/copy") == b"small"
fs.rm("lake/s3fs", recursive=True)
fs.invalidate_cache()
assert not fs.exists("lake/s3fs/dir/small")
