"""Starts the Triton server inside the nvidia-pytriton wheel: python launch.py --help.

Run it with the Python that has nvidia-pytriton and numpy<2: Triton's python backend
uses its packages.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    for name, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(f"--{name}-port", type=int, default=port)
    given = parser.parse_args()
    found = importlib.util.find_spec("pytriton")
    if found is None:
        raise SystemExit("Expected: pip install --no-deps nvidia-pytriton==0.7.0")
    home = Path(found.origin).parent / "tritonserver"
    # The stub of this Python must be next to the backend's library. Both are copied,
    # because the user may not be allowed to write to the installed wheel.
    backends = Path(tempfile.mkdtemp(prefix="triton-backends-"))
    shutil.copytree(home / "backends" / "python", backends / "python")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    libraries = home.parents[1] / "nvidia_pytriton.libs"
    paths = [str(libraries), sysconfig_libdir(), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(path for path in paths if path),
        "PATH": f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
    }
    server = home / "bin" / "tritonserver"
    command = [
        str(server),
        f"--model-repository={given.repository.resolve()}",
        f"--backend-directory={backends}",
        f"--http-address={given.host}",
        f"--grpc-address={given.host}",
        f"--metrics-address={given.host}",
        f"--http-port={given.http_port}",
        f"--grpc-port={given.grpc_port}",
        f"--metrics-port={given.metrics_port}",
        "--exit-timeout-secs=10",
    ]
    os.execve(server, command, environment)


def sysconfig_libdir():
    """Returns the folder of this Python's libpython, which the stub needs."""
    import sysconfig

    return sysconfig.get_config_var("LIBDIR") or ""


if __name__ == "__main__":
    main()
