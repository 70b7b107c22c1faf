"""Packages by name, through the ordinary clients: `apt-get download`, `pip download`, `npm pack`.

The clients know their own registries, mirrors, proxies and signatures, so no address appears here.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Literal

Client = Literal["apt", "pip", "sdist", "npm"]  # sdist: pip, but the source archive


class PackageError(OSError):
    """A package that cannot be had; the message names the package, the client and the reason."""


def download(client: Client, package: str, version: str | None, folder: Path) -> Path:
    """Fetch one package without its dependencies into the empty `folder`; returns the archive.

    `version` pins it for pip and npm; apt serves what the distribution has.
    Raises :class:`PackageError`.
    """
    match client:
        case "apt":
            command = [_find("apt-get", package), "download", package]
        case "pip" | "sdist":
            pinned = f"{package}=={version}" if version else package
            command = [
                *_pip(package),
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                pinned,
            ]
            command += ["--no-binary", package] if client == "sdist" else []
        case "npm":
            pinned = f"{package}@{version}" if version else package
            command = [_find("npm", package), "pack", "--silent", pinned]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    archives = list(folder.iterdir())
    if done.returncode or len(archives) != 1:
        raise PackageError(f"{package}: {client} could not get it ({_reason(client, done.stderr)}).")
    return archives[0]


def unpack(archive: Path, folder: Path) -> None:
    """Extract a .deb, a zip (.whl) or a tar (.tgz, .tar.gz) into `folder`; raises :class:`PackageError`."""
    try:
        if archive.suffix == ".deb":
            command = [_find("dpkg-deb", archive.name), "-x", str(archive), str(folder)]
            subprocess.run(command, check=True, capture_output=True)
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
        else:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
    except (subprocess.CalledProcessError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise PackageError(f"{archive.name}: the archive does not unpack ({error}).") from error


def version_of(archive: Path) -> str:
    """The version in an archive's file name, as apt, pip and npm write it."""
    name = archive.name
    if archive.suffix == ".deb":
        return name.split("_")[1].replace("%3a", ":")
    if archive.suffix == ".whl":
        return name.split("-")[1]
    return name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz").rpartition("-")[2]


def _find(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise PackageError(f"{package}: {program} is not on this machine.")
    return path


@cache
def _working_pip() -> tuple[str, ...] | None:
    # A uv environment has no pip of its own: look at the interpreter below it, then along PATH.
    candidates: list[tuple[str, ...]] = [(sys.executable, "-m", "pip")]
    for below in (Path(sys.base_prefix) / "bin" / "python3", Path(sys.base_prefix) / "python.exe"):
        candidates.append((str(below), "-m", "pip"))
    candidates += [("pip3",), ("pip",), ("uv", "tool", "run", "pip")]
    for command in candidates:
        try:
            if subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
                return command
        except OSError:
            continue
    return None


def _pip(package: str) -> tuple[str, ...]:
    command = _working_pip()
    if command is None:
        raise PackageError(f"{package}: no pip is on this machine.")
    return command


def _reason(client: Client, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "ERROR:", "npm error"))] or lines
    reason = errors[-1] if errors else "it gave no reason"
    if client == "apt" and "locate" in reason:
        reason += "; `apt-get update` may help"
    return reason
