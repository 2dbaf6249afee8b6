"""Runs every client against a worker, each in a folder and a process of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
import time

from worker import Worker

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


with tempfile.TemporaryDirectory(prefix="corelane-clients-") as folder:
    origin = os.path.join(folder, "origin")
    os.makedirs(origin)
    worker = Worker(program, folder, f"file://{origin}")
    failed = run_all(worker, os.path.join(folder, "over-a-folder"))
    server_errors = worker.metric("corelane_s3_answers_server_error_total")
    cut = worker.metric("corelane_s3_answers_cut_total")
    if failed:
        kept = tempfile.mkdtemp(prefix="corelane-clients-failed-")
        shutil.copytree(worker.folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.img"))
        print(f"the worker's logs are in {kept}")
    worker.stop()
if failed:
    raise SystemExit(f"failed: {', '.join(failed)}")
print(f"all clients right; answers with 5xx: {server_errors:.0f}, cut off: {cut:.0f}")
