"""A real S3 server on the loopback address (S3Proxy with a folder), for tests of the object store."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace_local.loopback import free_port

BUCKET = "headrace"
KEY_ID, SECRET = "tests", "only-for-tests-on-loopback"
_START_S = 60.0


@dataclass(slots=True)
class S3Server:
    """The server; ``folder`` contains the bucket's objects as files."""

    endpoint: str
    folder: Path
    process: subprocess.Popen[bytes]

    def settings(self, folder: str = "objects") -> dict[str, str]:
        """Return the variables with which a stage uses this folder of the bucket."""
        return {
            "HEADRACE_OBJECTS_URL": f"s3://{BUCKET}/{folder}",
            "HEADRACE_OBJECTS_S3_ENDPOINT": self.endpoint,
            "HEADRACE_OBJECTS_S3_REGION": "us-east-1",
            "HEADRACE_OBJECTS_S3_ACCESS_KEY_ID": KEY_ID,
            "HEADRACE_OBJECTS_S3_SECRET_ACCESS_KEY": SECRET,
            "HEADRACE_OBJECTS_S3_ALLOW_HTTP": "true",
        }


@contextmanager
def served(java: str, jar: Path, folder: Path) -> Iterator[S3Server]:
    """Yield a server for the folder, with an empty bucket, that checks signatures; it stops at the end of the block."""
    port = free_port()
    data = folder / "s3"
    (data / BUCKET).mkdir(parents=True)
    properties = folder / "s3proxy.conf"
    lines = {
        "s3proxy.endpoint": f"http://127.0.0.1:{port}",
        "s3proxy.authorization": "aws-v2-or-v4",
        "s3proxy.identity": KEY_ID,
        "s3proxy.credential": SECRET,
        "jclouds.provider": "filesystem-nio2",
        "jclouds.filesystem.basedir": str(data),
    }
    properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()), encoding="utf-8")
    log = folder / "s3proxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [java, "-Xmx256m", "-jar", str(jar), "--properties", str(properties)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        server = S3Server(f"http://127.0.0.1:{port}", data / BUCKET, process)
        _wait(server, log)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait(server: S3Server, log: Path) -> None:
    """Wait until it answers, even with an error about a missing signature."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(server.endpoint, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"S3Proxy does not start:\n{log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.1)
        else:
            return
