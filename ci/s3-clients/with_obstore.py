"""obstore (the object_store crate from Python): conditional writes, ranges, multipart, listings."""

import os

import obstore
from obstore.store import S3Store

store = S3Store("lake", prefix="obstore")
data = os.urandom(12_000_001)
obstore.put(store, "large", data, use_multipart=True, chunk_size=5 << 20)
assert bytes(obstore.get(store, "large").bytes()) == data
parts = obstore.get_ranges(store, "large", starts=[0, 5_000_000, 11_999_990], ends=[10, 5_000_100, 12_000_001])
assert [bytes(part) for part in parts] == [data[:10], data[5_000_000:5_000_100], data[11_999_990:]]
assert bytes(obstore.get(store, "large", options={"range": {"suffix": 9}}).bytes()) == data[-9:]
obstore.put(store, "once", b"one", mode="create")
try:
    obstore.put(store, "once", b"two", mode="create")
    raise AssertionError("an object was made twice")
except obstore.exceptions.AlreadyExistsError:
    pass
assert bytes(obstore.get(store, "once").bytes()) == b"one"
tag = obstore.head(store, "once")["e_tag"]
obstore.put(store, "once", b"three", mode={"e_tag": tag})
assert bytes(obstore.get(store, "once").bytes()) == b"three"
obstore.copy(store, "once", "copied")
assert sorted(meta["path"] for batch in obstore.list(store) for meta in batch) == ["copied", "large", "once"]
obstore.delete(store, ["once", "large", "copied"])
assert [meta for batch in obstore.list(store) for meta in batch] == []
