"""boto3: every operation that the face serves, and its conditions."""

import hashlib
import os

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

BUCKET = "lake"
# Addresses are presigned by version 2 otherwise, which the face refuses.
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"))


def refused(call, status, code):
    try:
        call()
    except ClientError as error:
        found = (error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])
        assert found == (status, code), found
    else:
        raise AssertionError(f"expected {status} {code}")


def md5(data):
    return hashlib.md5(data).hexdigest()


assert BUCKET in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
s3.head_bucket(Bucket=BUCKET)
refused(lambda: s3.get_object(Bucket=BUCKET, Key="boto/none"), 404, "NoSuchKey")
refused(lambda: s3.get_object(Bucket="no-such-bucket", Key="x"), 404, "NoSuchBucket")
refused(lambda: s3.head_object(Bucket=BUCKET, Key="boto/none"), 404, "404")

for size in [0, 1, 4096, 65_537, 1 << 20, (5 << 20) + 3]:
    data = os.urandom(size)
    key = f"boto/{size} bytes é+&.bin"
    put = s3.put_object(Bucket=BUCKET, Key=key, Body=data, ContentType="application/x-test",
                        Metadata={"owner": "me", "size": str(size)}, CacheControl="max-age=5")
    got = s3.get_object(Bucket=BUCKET, Key=key)
    assert md5(got["Body"].read()) == md5(data), key
    assert got["ETag"] == put["ETag"], (got["ETag"], put["ETag"])
    assert got["ContentType"] == "application/x-test" and got["CacheControl"] == "max-age=5", got
    assert got["Metadata"] == {"owner": "me", "size": str(size)}, got["Metadata"]
    head = s3.head_object(Bucket=BUCKET, Key=key)
    assert head["ContentLength"] == size and head["ETag"] == put["ETag"]
    assert head["LastModified"] == got["LastModified"]
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"]
    assert [(entry["Key"], entry["Size"], entry["ETag"]) for entry in listed] == [(key, size, put["ETag"])]
    for start, end in [(0, 0), (1, 9), (size // 2, size * 2), (size - 1, size)]:
        if 0 <= start < size:
            part = s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={start}-{end}")
            assert part["Body"].read() == data[start:end + 1]
            assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
            last = min(end, size - 1)
            assert part["ContentRange"] == f"bytes {start}-{last}/{size}"
    if size:
        part = s3.get_object(Bucket=BUCKET, Key=key, Range="bytes=-7")
        assert part["Body"].read() == data[-7:]
        open_ended = s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={size - 1}-", IfMatch=put["ETag"])
        assert open_ended["Body"].read() == data[-1:]
    refused(lambda: s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={size}-"), 416, "InvalidRange")
    refused(lambda: s3.get_object(Bucket=BUCKET, Key=key, IfMatch='"other"'), 412, "PreconditionFailed")
    refused(lambda: s3.get_object(Bucket=BUCKET, Key=key, IfNoneMatch=put["ETag"]), 304, "304")
    refused(lambda: s3.put_object(Bucket=BUCKET, Key=key, Body=b"x", IfNoneMatch="*"), 412, "PreconditionFailed")

# Checksums of every kind that the client can compute by itself.
for algorithm in ["CRC32", "SHA1", "SHA256"]:
    s3.put_object(Bucket=BUCKET, Key="boto/sum", Body=b"summed", ChecksumAlgorithm=algorithm)
    assert s3.get_object(Bucket=BUCKET, Key="boto/sum")["Body"].read() == b"summed"
refused(lambda: s3.put_object(Bucket=BUCKET, Key="boto/sum", Body=b"other", ChecksumSHA256="A" * 43 + "="), 400, "BadDigest")
assert s3.get_object(Bucket=BUCKET, Key="boto/sum")["Body"].read() == b"summed"

# An overwrite is seen at once, and the old version never again.
for version in range(20):
    s3.put_object(Bucket=BUCKET, Key="boto/again", Body=b"%d" % version)
    assert s3.get_object(Bucket=BUCKET, Key="boto/again")["Body"].read() == b"%d" % version

# Multipart by the transfer manager, and back in parallel ranges.
data = os.urandom((17 << 20) + 1)
with open("large", "wb") as file:
    file.write(data)
transfer = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
s3.upload_file("large", BUCKET, "boto/large", Config=transfer, ExtraArgs={"Metadata": {"parts": "four"}})
s3.download_file(BUCKET, "boto/large", "large.back", Config=transfer)
assert md5(open("large.back", "rb").read()) == md5(data)
assert s3.head_object(Bucket=BUCKET, Key="boto/large")["Metadata"] == {"parts": "four"}

upload = s3.create_multipart_upload(Bucket=BUCKET, Key="boto/parts")["UploadId"]
assert upload in [entry["UploadId"] for entry in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]]
first = s3.upload_part(Bucket=BUCKET, Key="boto/parts", UploadId=upload, PartNumber=1, Body=data[: 5 << 20])
second = s3.upload_part_copy(Bucket=BUCKET, Key="boto/parts", UploadId=upload, PartNumber=2,
                             CopySource={"Bucket": BUCKET, "Key": "boto/large"},
                             CopySourceRange=f"bytes={5 << 20}-{len(data) - 1}")["CopyPartResult"]
parts = s3.list_parts(Bucket=BUCKET, Key="boto/parts", UploadId=upload)["Parts"]
assert [(part["PartNumber"], part["Size"]) for part in parts] == [(1, 5 << 20), (2, len(data) - (5 << 20))]
s3.complete_multipart_upload(Bucket=BUCKET, Key="boto/parts", UploadId=upload, MultipartUpload={
    "Parts": [{"PartNumber": 1, "ETag": first["ETag"]}, {"PartNumber": 2, "ETag": second["ETag"]}]})
assert md5(s3.get_object(Bucket=BUCKET, Key="boto/parts")["Body"].read()) == md5(data)
upload = s3.create_multipart_upload(Bucket=BUCKET, Key="boto/aborted")["UploadId"]
s3.upload_part(Bucket=BUCKET, Key="boto/aborted", UploadId=upload, PartNumber=1, Body=b"x")
s3.abort_multipart_upload(Bucket=BUCKET, Key="boto/aborted", UploadId=upload)
refused(lambda: s3.list_parts(Bucket=BUCKET, Key="boto/aborted", UploadId=upload), 404, "NoSuchUpload")
refused(lambda: s3.get_object(Bucket=BUCKET, Key="boto/aborted"), 404, "NoSuchKey")

# Copies, with the metadata of the source and with other.
s3.copy_object(Bucket=BUCKET, Key="boto/copy", CopySource={"Bucket": BUCKET, "Key": "boto/large"})
copy = s3.get_object(Bucket=BUCKET, Key="boto/copy")
assert copy["Metadata"] == {"parts": "four"} and md5(copy["Body"].read()) == md5(data)
s3.copy_object(Bucket=BUCKET, Key="boto/copy", CopySource={"Bucket": BUCKET, "Key": "boto/large"},
               MetadataDirective="REPLACE", Metadata={"other": "yes"})
assert s3.head_object(Bucket=BUCKET, Key="boto/copy")["Metadata"] == {"other": "yes"}

# Listings: pages, folders, both versions of the call.
for number in range(30):
    s3.put_object(Bucket=BUCKET, Key=f"boto/list/{number % 3}/{number:02}", Body=b"")
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="boto/list/", PaginationConfig={"PageSize": 7})
keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
assert len(keys) == 30 and keys == sorted(keys), keys
pages = s3.get_paginator("list_objects").paginate(Bucket=BUCKET, Prefix="boto/list/", PaginationConfig={"PageSize": 7})
assert keys == [entry["Key"] for page in pages for entry in page.get("Contents", [])]
folders = s3.list_objects_v2(Bucket=BUCKET, Prefix="boto/list/", Delimiter="/")
assert [entry["Prefix"] for entry in folders["CommonPrefixes"]] == [f"boto/list/{n}/" for n in range(3)]
assert "Contents" not in folders
after = s3.list_objects_v2(Bucket=BUCKET, Prefix="boto/list/", StartAfter=keys[9])["Contents"]
assert [entry["Key"] for entry in after] == keys[10:]

# Deletions, one and many; what is not there is deleted as well.
s3.delete_object(Bucket=BUCKET, Key="boto/copy")
refused(lambda: s3.head_object(Bucket=BUCKET, Key="boto/copy"), 404, "404")
gone = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys + ["boto/never"]]})
assert len(gone["Deleted"]) == 31 and "Errors" not in gone, gone
assert s3.list_objects_v2(Bucket=BUCKET, Prefix="boto/list/")["KeyCount"] == 0

# A presigned address, and one that was tampered with.
import urllib.error
import urllib.request

url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "boto/large"}, ExpiresIn=60)
assert md5(urllib.request.urlopen(url).read()) == md5(data)
try:
    urllib.request.urlopen(url.replace("boto/large", "boto/parts"))
    raise AssertionError("another object by the same signature")
except urllib.error.HTTPError as error:
    assert error.code == 403 and b"SignatureDoesNotMatch" in error.read()
