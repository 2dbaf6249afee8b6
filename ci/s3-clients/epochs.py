"""What an origin is asked for while a data set is read twice, in another order each time: by the reader
itself, and by a worker that the reader asks. Counted in the origin's access log; every byte is compared.

    epochs.py PROGRAM [--shards N] [--shard-mib N] [--samples N] [--sample-kib N]

The origin is another worker over a folder: an S3 server that verifies signatures and logs each request.
"""

import argparse
import concurrent.futures
import hashlib
import os
import random
import re
import tempfile
import time

import boto3
from botocore.config import Config

from worker import BUCKET, KEY_ID, SECRET, Worker

RANGE_BYTES = 256 << 10
READERS = 8
LINE = re.compile(r'^\S+ \S+ \[[^]]*\] \S+ \S+ \S+ (\S+) \S+ "[^"]*" (\d+) \S+ (\S+) ')

arguments = argparse.ArgumentParser()
arguments.add_argument("program")
arguments.add_argument("--shards", type=int, default=4, help="large objects, read in ranges of 256 KiB")
arguments.add_argument("--shard-mib", type=int, default=16)
arguments.add_argument("--samples", type=int, default=400, help="small objects, read whole")
arguments.add_argument("--sample-kib", type=int, default=100)
options = arguments.parse_args()


def client(endpoint):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(max_pool_connections=READERS, retries={"total_max_attempts": 1}),
    )


def data_set(folder):
    """Objects with random bytes; the reads of an epoch, with the hash of what they must give."""
    chance = random.Random(1)
    reads = []
    for number in range(options.shards):
        key = f"shards/{number:05}.tar"
        bytes_ = chance.randbytes(options.shard_mib << 20)
        write(os.path.join(folder, key), bytes_)
        for start in range(0, len(bytes_), RANGE_BYTES):
            piece = bytes_[start:start + RANGE_BYTES]
            reads.append((key, f"bytes={start}-{start + len(piece) - 1}", hash_of(piece)))
    for number in range(options.samples):
        key = f"samples/{number:06}.jpg"
        bytes_ = chance.randbytes(chance.randint(1, 2 * options.sample_kib) << 10)
        write(os.path.join(folder, key), bytes_)
        reads.append((key, None, hash_of(bytes_)))
    return reads


def write(path, bytes_):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(bytes_)


def hash_of(bytes_):
    return hashlib.blake2b(bytes_).digest()


def epoch(endpoint, reads):
    """Reads all of it once, in the given order, eight at a time; seconds."""
    s3 = client(endpoint)

    def read(what):
        key, range_, expected = what
        asked = {"Bucket": BUCKET, "Key": key, **({"Range": range_} if range_ else {})}
        assert hash_of(s3.get_object(**asked)["Body"].read()) == expected, (key, range_)

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(read, reads):
            pass
    return time.monotonic() - began


class Log:
    """What is new in an access log: requests of each kind, and bytes of bodies."""

    def __init__(self, worker):
        self.path = os.path.join(worker.folder, "access.log")
        self.worker = worker
        self.position = 0

    def new(self):
        # Lines are written behind the answers, in their order: one more request, and wait for its line.
        mark = f"mark-{self.position}-{random.getrandbits(64):x}"
        try:
            client(self.worker.endpoint).head_object(Bucket=BUCKET, Key=mark)
        except client(self.worker.endpoint).exceptions.ClientError:
            pass
        deadline = time.monotonic() + 60
        while True:
            with open(self.path) as file:
                file.seek(self.position)
                text = file.read()
            if mark in text and text.endswith("\n"):
                break
            assert time.monotonic() < deadline, "the access log stands still"
            time.sleep(0.05)
        self.position += len(text.encode())
        gets = heads = bytes_ = 0
        for line in text.splitlines():
            found = LINE.match(line)
            assert found, line
            operation, status, sent = found.groups()
            if mark in line:
                continue
            if operation == "REST.GET.OBJECT":
                gets += 1
                bytes_ += int(sent) if sent != "-" else 0
            elif operation == "REST.HEAD.OBJECT":
                heads += 1
            assert status in ("200", "206"), line
        return gets, heads, bytes_


with tempfile.TemporaryDirectory(prefix="corelane-epochs-") as folder:
    source = os.path.join(folder, "source")
    reads = data_set(source)
    all_bytes = sum(
        os.path.getsize(os.path.join(place, name))
        for place, _, names in os.walk(source)
        for name in names
    )
    print(f"{options.shards + options.samples} objects, {all_bytes:,} bytes, {len(reads)} reads an epoch")
    origin = Worker(options.program, folder, f"file://{source}", "origin")
    worker = Worker(
        options.program, folder, f"s3://{BUCKET}", "worker",
        f'freshness = "immutable"\n{origin.mount_options()}',
    )
    log = Log(origin)
    seen = {}
    print("| reader asks | epoch | origin: GETs | HEADs | bytes | seconds |\n|---|---|---|---|---|---|")
    for name, asked in [("the origin", origin), ("the worker", worker)]:
        for number in [1, 2]:
            random.Random(number).shuffle(reads)
            seconds = epoch(asked.endpoint, reads)
            seen[name, number] = log.new()
            gets, heads, bytes_ = seen[name, number]
            print(f"| {name} | {number} | {gets:,} | {heads:,} | {bytes_:,} | {seconds:.1f} |", flush=True)
    for number in [1, 2]:
        assert seen["the origin", number] == (len(reads), 0, all_bytes), "the reader asks once for each read"
    gets, heads, bytes_ = seen["the worker", 1]
    assert bytes_ == all_bytes, "every byte is fetched once"
    assert heads == options.shards + options.samples, "every object is described once"
    assert seen["the worker", 2] == (0, 0, 0), "the second epoch comes from the cache"
    worker.stop()
    origin.stop()
