"""Server processes for the scripts that compare servers. Standard library only."""

import json
import socket
import subprocess
import sys
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process and its address."""

    def __init__(self, name, command):
        self.name = name
        self.port = free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [*map(str, command), "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(command, **quiet)

    def wait(self):
        """Returns when it answers."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                sys.exit(f"{self.name} ended with code {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        sys.exit(f"{self.name} does not get ready")

    def post(self, body, timeout):
        """Opens the answer to a chat request."""
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=timeout)

    def stop(self):
        self.process.terminate()
        self.process.wait()
