"""The sanitizers' runs: toolchains under .cache/, the tests under an instrumented build, and the rows of the report."""

import argparse
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time

from common import CACHE, ROOT, say

TARGET = "x86_64-unknown-linux-gnu"
LIMIT_S = 1800
# Cold, with the standard library, some minutes on two cores that do nothing else.
BUILD_LIMIT_S = 7200


# Whatever packages a row names, their dependencies have the same features, so that each is built once; and these runs gain more from quick
# builds than from quick programs, but for the CPU's kernels, of which the short ones run few.
BUILD = [
    "-Zfeature-unification", "--config", 'resolver.feature-unification="workspace"',
    "--config", 'profile.dev.package."*".opt-level=0',
]


class NotRun(Exception):
    """What is missing, and how to get it."""


class Toolchain:
    """Which cargo, with what."""

    def __init__(self, cargo, environment, arguments, folder):
        self.cargo, self.environment, self.arguments, self.folder = cargo, environment, arguments, folder


def command(*arguments, **keywords):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, **keywords)
    if done.returncode != 0:
        raise NotRun(f"{shlex.join(map(str, arguments))}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def runtime(sanitizer):
    """The sanitizer's runtime library that rustup's stable toolchain brings (Debian's compiler has none)."""
    if not shutil.which("rustup"):
        raise NotRun("rustup's stable toolchain brings the sanitizers' runtime, and rustup is not installed: https://rustup.rs")
    # Inside the checkout, so that a pinned toolchain is the one that is asked.
    folder = pathlib.Path(command("rustc", "--print", "target-libdir", "--target", TARGET, cwd=ROOT).strip())
    found = sorted(folder.glob(f"librustc-*_rt.{sanitizer}.a"))
    if not found:
        raise NotRun(f"{folder} has no {sanitizer} runtime: rustup toolchain install stable")
    return found[0]


def debian_toolchain():
    """Debian's rustc, cargo and the source of their standard library, unpacked side by side under .cache/.

    Whatever else the machine has stays as it is: nothing is installed, PATH and the default toolchain do not change. The version
    moves with Debian's security updates, so it is found at run time, and an old one is replaced.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise NotRun("an instrumented standard library needs Debian's rustc-web, cargo-web and rust-web-src: run this on Debian 12 or "
                     "newer (a container will do)")
    packages = ["rustc-web", "cargo-web", "rust-web-src"]
    if os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
    # What these need and the machine lacks, with all dependencies. Only printed, never installed.
    lines = subprocess.run(["apt-get", "install", "--print-uris", "-qq", "-y", "--no-install-recommends", *packages],
                           capture_output=True, text=True)
    files = re.findall(r"^'(\S+)' (\S+\.deb) ", lines.stdout, re.MULTILINE)
    folder = CACHE / "rust-web"
    rustc = folder / "usr" / "bin" / "rustc"
    if lines.returncode != 0 or not files:
        if rustc.exists():
            return folder  # No network today; what was unpacked before is as good.
        raise NotRun("Debian's packages rustc-web, cargo-web and rust-web-src are not to be had; is there a network, and does "
                     f"/etc/apt/sources.list have the security repository? {lines.stderr.strip()[-300:]}")
    wanted = "\n".join(sorted(name for _, name in files))
    stamp = folder / "packages.txt"
    if rustc.exists() and stamp.exists() and stamp.read_text() == wanted:
        return folder
    say(f"unpacking {len(files)} of Debian's packages into {folder}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        debs, tree = pathlib.Path(temporary) / "debs", pathlib.Path(temporary) / "tree"
        debs.mkdir()
        # By name: apt-get fetches with the mirror, proxy and signatures that the machine is set up for.
        names = [name.split("_")[0] for _, name in files]
        command("apt-get", "download", "-qq", *names, cwd=debs)
        for deb in sorted(debs.glob("*.deb")):
            command("dpkg", "-x", deb, tree)
        shutil.rmtree(folder, ignore_errors=True)
        tree.rename(folder)
    stamp.write_text(wanted)
    return folder


def instrumented(sanitizer):
    """A toolchain that builds the standard library with the sanitizer, too. ThreadSanitizer is of no use without: it does not see
    the synchronisation in a library that is not instrumented, and reports races where there are none."""
    library = runtime(sanitizer)
    folder = debian_toolchain()
    libraries = folder / "usr" / "lib" / "rustlib" / TARGET / "lib"
    # The compiler looks for a runtime named after its own release channel.
    for channel in ("stable", "dev", "nightly"):
        link = libraries / f"librustc-{channel}_rt.{sanitizer}.a"
        if link.is_symlink() or not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(library)
    path = folder / "usr" / "bin"
    shared = [folder / "usr" / "lib" / f"{platform.machine()}-linux-gnu", folder / "usr" / "lib", libraries]
    environment = {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, shared)),
        "RUSTC": str(path / "rustc"),
        "RUSTDOC": str(path / "rustdoc"),
        "RUSTC_BOOTSTRAP": "1",
    }
    return Toolchain(path / "cargo", environment, ["-Zbuild-std", "--target", TARGET], f"target/{sanitizer}")


def plain(sanitizer):
    """The default toolchain: AddressSanitizer needs no instrumented standard library to be right about ours."""
    runtime(sanitizer)
    return Toolchain(shutil.which("cargo"), {"RUSTC_BOOTSTRAP": "1"}, ["--target", TARGET], f"target/{sanitizer}")


class Run:
    """One sanitizer's rows."""

    def __init__(self, description, sanitizer, report, options):
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--quick", action="store_true", help="the tests of threads and memory alone")
        parser.add_argument("--json", metavar="FILE", help="write the rows there")
        parser.add_argument("--verbose", "-v", action="store_true", help="show what the tests print")
        self.options = parser.parse_args()
        self.sanitizer, self.report, self.runtime_options = sanitizer, report, options
        self.rows, self.toolchain = [], None

    def prepare(self, make):
        """Gets the toolchain, or says why there is none."""
        try:
            if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
                raise NotRun(f"the sanitizers' runs are set up for Linux on x86-64, this is {platform.system()} on {platform.machine()}")
            self.toolchain = make(self.sanitizer)
        except NotRun as e:
            self.missing = str(e)
            say(f"not run: {e}")

    def row(self, name, status, figure, seconds=0.0, detail=None):
        say(f"{status:8} {name:45} {seconds:6.1f} s  {figure}")
        if detail:
            say(detail)
        row = {"name": name, "status": status, "figure": figure, "seconds": round(seconds, 1)}
        self.rows.append(row | ({"detail": detail} if detail else {}))

    def cargo(self, arguments, filters):
        """Builds and runs tests; exit status, what they printed, seconds of the run."""
        tools = self.toolchain
        # The planted faults are in every build, so that there is one build, and run when they are asked for by name.
        flags = f"-Zsanitizer={ {'tsan': 'thread', 'asan': 'address'}[self.sanitizer] } --cfg planted_faults"
        environment = os.environ | tools.environment | {"RUSTFLAGS": flags} | self.runtime_options
        kernels = f"profile.dev.package.streampool-cpu.opt-level={1 if self.options.quick else 3}"
        words = [tools.cargo, "test", *BUILD, "--config", kernels, *tools.arguments, "--target-dir", tools.folder, *arguments]
        for step, limit in (["--no-run", "--quiet"], BUILD_LIMIT_S), (["--no-fail-fast", "--", *filters], LIMIT_S):
            start = time.monotonic()
            with tempfile.TemporaryFile("w+", errors="replace") as log:
                try:
                    status = subprocess.run([str(w) for w in [*words, *step]], cwd=ROOT, env=environment, stdout=log,
                                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=limit).returncode
                except subprocess.TimeoutExpired:
                    status = f"still running after {limit} s"
                log.seek(0)
                text = log.read()
            if self.options.verbose:
                say(text)
            if status != 0:
                break
        return status, text, time.monotonic() - start

    def tests(self, name, arguments, filters=()):
        """A row of tests: all pass, and the sanitizer reports nothing."""
        if self.toolchain is None:
            self.row(name, "not run", self.missing)
            return
        status, text, seconds = self.cargo(arguments, [*filters, "--skip", "planted::"])
        passed = sum(int(n) for n in re.findall(r"test result: ok\. (\d+) passed", text))
        reports = text.count(self.report)
        if status == 0 and reports == 0 and passed > 0:
            self.row(name, "passed", f"{passed} tests, 0 reports", seconds)
        else:
            why = f"{reports} reports, {passed} tests passed, exit status {status}"
            begin = max(text.find(self.report) - 200, 0) if reports else -6000
            self.row(name, "failed", why, seconds, text[begin:][:6000])

    def planted(self, name, fault, arguments=("-p", "streampool-cpu", "--test", "planted"), filters=()):
        """A row that passes only if the sanitizer reports the fault that was put there: the detector sees."""
        if self.toolchain is None:
            self.row(name, "not run", self.missing)
            return
        status, text, seconds = self.cargo(arguments, [f"planted::{fault}", "--exact", *filters])
        reports = text.count(self.report)
        started = re.search(r"^running 1 test$", text, re.MULTILINE)
        if started and reports > 0 and status != 0:
            self.row(name, "passed", f"{reports} reports of the fault that was planted", seconds)
        else:
            why = "the fault that was planted was not reported" if started else "the test with the planted fault did not run"
            self.row(name, "failed", f"{why}; exit status {status}", seconds, text[-4000:])

    def finish(self):
        """Writes the rows; exit status 0 if none failed and something ran, 3 if nothing could."""
        if self.options.json:
            path = pathlib.Path(self.options.json)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            part.write_text(json.dumps({"sanitizer": self.sanitizer, "rows": self.rows}, indent=1))
            part.replace(path)
        states = [row["status"] for row in self.rows]
        raise SystemExit(1 if "failed" in states else 0 if "passed" in states else 3)
