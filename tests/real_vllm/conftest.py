"""Tests against real vLLM, in the environment of ``VLLM_PYTHON``: ``make test-vllm`` builds it."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

PYTHON = os.environ.get("VLLM_PYTHON")
collect_ignore_glob = [] if PYTHON else ["*"]
SERVER_START_SECONDS = 300


@pytest.fixture(scope="session", autouse=True)
def little_memory():
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"


@pytest.fixture(scope="session")
def vllm_python():
    return os.path.abspath(PYTHON)


@pytest.fixture(scope="session")
def vllm_server(vllm_python, demo_model, tmp_path_factory):
    """The address of a vLLM server of the demo model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    options = ["--model", demo_model, "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command = [vllm_python, "-m", "vllm.entrypoints.openai.api_server", *options]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=output, stderr=output
        )
    address = f"http://127.0.0.1:{port}/v1"
    try:
        _wait_for(f"{address}/models", server, log)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait_for(url, server, log):
    deadline = time.monotonic() + SERVER_START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)


@pytest.fixture(scope="session")
def demo_model():
    from gradcurate.policies.checkpoints import find_checkpoint

    return str(find_checkpoint("smollm2-135m").folder)
