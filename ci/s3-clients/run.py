"""Runs every client against a worker, each in a folder and a process of its own."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from worker import BUCKET, Worker

HERE = os.path.dirname(os.path.abspath(__file__))
program, main_python, s3fs_python, *wanted = sys.argv[1:]
bin_folder = os.path.dirname(main_python)

CLIENTS = {
    "boto3": [main_python, f"{HERE}/with_boto3.py"],
    "awscli": ["sh", f"{HERE}/with_awscli.sh"],
    "pyarrow": [main_python, f"{HERE}/with_pyarrow.py"],
    "engines": [main_python, f"{HERE}/with_engines.py"],
    "s3fs": [s3fs_python, f"{HERE}/with_s3fs.py"],
    "obstore": [main_python, f"{HERE}/with_obstore.py"],
    "rclone": ["sh", f"{HERE}/with_rclone.sh"],
    "s3cmd": ["sh", f"{HERE}/with_s3cmd.sh"],
}


def run_all(worker, folder):
    failed = []
    for name in wanted or CLIENTS:
        place = os.path.join(folder, name)
        os.makedirs(place)
        environment = worker.environment()
        environment["PATH"] = f"{bin_folder}:{environment['PATH']}"
        began = time.monotonic()
        ended = subprocess.run(CLIENTS[name], cwd=place, env=environment, timeout=600)
        taken = time.monotonic() - began
        print(f"{name}: {'right' if ended.returncode == 0 else 'FAILED'} in {taken:.1f} s", flush=True)
        if ended.returncode != 0:
            failed.append(name)
    return failed


def report(worker, name, failed):
    """What a worker counted; its logs where clients failed."""
    errors = worker.metric("corelane_s3_answers_server_error_total")
    cut = worker.metric("corelane_s3_answers_cut_total")
    print(f"{name}: answers with 5xx: {errors:.0f}, cut off: {cut:.0f}", flush=True)
    with open(os.path.join(worker.folder, "access.log")) as log:
        for line in log:
            if re.search(r'" 5\d\d ', line):
                print("  " + line.rstrip())
    if failed:
        kept = tempfile.mkdtemp(prefix="corelane-clients-failed-")
        shutil.copytree(worker.folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.img"))
        print(f"the logs of the worker {name} are in {kept}")


with tempfile.TemporaryDirectory(prefix="corelane-clients-") as folder:
    origin = os.path.join(folder, "origin")
    os.makedirs(origin)
    over_folder = Worker(program, folder, f"file://{origin}", "over-a-folder")
    # The same clients against a worker whose origin is an S3 server that verifies signatures: the first.
    over_s3 = Worker(program, folder, f"s3://{BUCKET}", "over-s3", over_folder.mount_options())
    failed = []
    for worker in [over_folder, over_s3]:
        name = os.path.basename(worker.folder)
        print(f"{name}:", flush=True)
        failed += [f"{client} {name}" for client in run_all(worker, os.path.join(folder, f"with-{name}"))]
    for worker in [over_s3, over_folder]:
        report(worker, os.path.basename(worker.folder), failed)
        worker.stop()
if failed:
    raise SystemExit(f"failed: {', '.join(failed)}")
print("all clients right")
