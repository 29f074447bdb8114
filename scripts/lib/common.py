"""What the Python scripts share: where things are, and tools and virtual environments under .cache/."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("STREAMPOOL_CACHE", ROOT / ".cache"))

# One pin for everything that speaks ONNX: the conformance cases come from exactly this version.
ONNX_PACKAGES = ["onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6"]


def say(text):
    print(text, flush=True)


def fail(text):
    sys.exit(f"error: {text}")


def environment(name, packages):
    """The python of the virtual environment .cache/venv-NAME, made or brought up to date if need be."""
    if sys.version_info < (3, 11):
        fail(f"Python 3.11 or newer is needed for {' '.join(packages)}, this is {sys.version.split()[0]}")
    folder = CACHE / f"venv-{name}"
    stamp, wanted = folder / "packages.txt", "\n".join([sys.version, *packages])
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (stamp.exists() and stamp.read_text() == wanted and python.exists()):
        say(f"making {folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}: {' '.join(packages)}")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.create(folder, with_pip=True)
            target = []
        except (subprocess.CalledProcessError, SystemExit):
            # Debian's python3 without python3-venv has no ensurepip: use this Python's own pip, if there is one.
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=False)
            if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
                shutil.rmtree(folder, ignore_errors=True)
                fail("this Python has neither ensurepip nor pip; on Debian and Ubuntu: apt-get install python3-venv or python3-pip")
            site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
            target = ["--target", site.strip()]
        pip(python, "install", *target, *packages)
        stamp.write_text(wanted)
    return python


def pip(python, *arguments):
    """Runs the environment's pip, or this Python's own if the environment has none."""
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode:
        python = sys.executable
    command = [python, "-m", "pip", "--disable-pip-version-check", arguments[0], "--quiet", *arguments[1:]]
    if subprocess.run(command).returncode != 0:
        fail(f"pip {' '.join(map(str, arguments))} failed; is there a network, or a PyPI mirror in PIP_INDEX_URL?")


def cargo_tool(name):
    """The environment in which `cargo NAME` works; installs cargo-NAME into .cache/tools if need be, which takes a minute."""
    if not shutil.which("cargo"):
        fail("cargo is not installed; get it from https://rustup.rs")
    tools = CACHE / "tools"
    path = f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}"
    if not shutil.which(f"cargo-{name}", path=path):
        say(f"installing cargo-{name} into {tools}")
        if subprocess.run(["cargo", "install", "--locked", "--quiet", "--root", tools, f"cargo-{name}"]).returncode != 0:
            fail(f"cargo-{name} could not be installed; is there a network, or a mirror of crates.io?")
    return os.environ | {"PATH": path}


def built(package, program):
    """The path of a program of the workspace in the release profile; builds it, unless scripts/test just did."""
    if "STREAMPOOL_BUILT" not in os.environ:
        if subprocess.run(["cargo", "build", "--release", "--quiet", "--package", package], cwd=ROOT).returncode:
            fail(f"building {package} failed")
    return ROOT / "target" / "release" / (program + (".exe" if os.name == "nt" else ""))


def remove_environment(name):
    shutil.rmtree(CACHE / f"venv-{name}", ignore_errors=True)


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_slow(f)


def _sha256_slow(f):
    digest = hashlib.sha256()
    while block := f.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
