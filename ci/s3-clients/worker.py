"""A worker for the clients: started on a folder, stopped when done, and what it counted."""

import os
import re
import signal
import subprocess
import urllib.request

KEY_ID = "CLIENTSKEY"
SECRET = "a-secret-for-the-clients-only"
BUCKET = "lake"


class Worker:
    """A worker process with one bucket, `lake`, on the folder or URI `origin`."""

    def __init__(self, program, folder, origin, name="worker", mount_options=""):
        self.folder = os.path.join(folder, name)
        os.makedirs(self.folder)
        config = os.path.join(self.folder, "worker.toml")
        with open(config, "w") as file:
            file.write(
                f"""
devices = ["{self.folder}/device.img"]
device_size = "4G"
dram = "512M"
listen = "127.0.0.1:0"
control = "127.0.0.1:0"
operations = "127.0.0.1:0"

[s3]
listen = "127.0.0.1:0"
access_log = "{self.folder}/access.log"

[[s3_key]]
id = "{KEY_ID}"
secret = "{SECRET}"
verbs = ["read", "list", "write", "delete"]

[[mount]]
path = "/{BUCKET}"
uri = "{origin}"
{mount_options}
"""
            )
        self.log = open(os.path.join(self.folder, "stderr"), "w")
        self.process = subprocess.Popen(
            [program, "serve", "--config", config],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.endpoint = self.operations = None
        for line in self.process.stdout:
            words = line.split()
            if words[0] == "s3":
                self.endpoint = words[1]
            elif words[0] == "operations":
                self.operations = words[1]
            elif words[0] == "serving:":
                return
        raise SystemExit(f"the worker did not start: {open(self.log.name).read()}")

    def metric(self, name):
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(self.operations + "metrics") as answer:
            text = answer.read().decode()
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)
        assert values, f"no metric {name}"
        return sum(float(value) for value in values)

    def stop(self):
        """Ends it in good order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.stdout.read()
        status = self.process.wait(60)
        assert status == 0, f"the worker ended with {status}: {open(self.log.name).read()}"

    def mount_options(self):
        """How another worker mounts this one's bucket."""
        options = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
            "allow_http": "true",
        }
        pairs = ", ".join(f'{name} = "{value}"' for name, value in options.items())
        return f"options = {{ {pairs} }}"

    def environment(self):
        """What the clients that read environment variables need."""
        return {
            **{
                name: value
                for name, value in os.environ.items()
                # A bundle of certificates in it breaks the rclone of Debian.
                if not name.startswith("AWS_") and not name.lower().endswith("_proxy")
            },
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
