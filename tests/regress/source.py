"""PostgreSQL's own regression suite: its scripts from Debian's source package, its programs.

Nothing of it is committed. It is fetched once per version into the build folder, by ordinary apt
commands with settings and lists of our own: the machine's are neither needed nor changed.
"""

import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"
SUITE_FOLDER = "src/test/regress"


class SourceError(Exception):
    """The suite cannot be had here."""


@dataclass(frozen=True)
class Suite:
    """Where things are: `regress` has sql/, expected/, data/ and the schedules."""

    version: str
    regress: Path
    # Functions in C that some tests call.
    library: Path
    # The program that runs the tests.
    driver: Path
    # What its clients have as time zone, which is not the same in all versions.
    time_zone: str


def prepare(programs: Path, cache: Path) -> Suite:
    """Finds or fetches the suite of the PostgreSQL in `programs`.

    `PGTANDEM_REGRESS_SOURCE` names an unpacked source tree to use instead of Debian's.
    """
    version = version_of(programs)
    library_folder = config_of(programs, "--pkglibdir")
    driver = library_folder / "pgxs" / SUITE_FOLDER / "pg_regress"
    if not driver.exists():
        raise SourceError(f"no pg_regress at {driver}: Debian's package has it")
    cache = cache / version
    cache.mkdir(parents=True, exist_ok=True)
    given = os.environ.get("PGTANDEM_REGRESS_SOURCE")
    top = Path(given) if given else fetched(version, cache)
    library = cache / "regress.so"
    if not library.exists():
        code = top / SUITE_FOLDER / "regress.c"
        compile_library(code, headers(programs, version, cache), library)
    found = re.search(r'setenv\("PGTZ", "([^"]+)"', (top / SUITE_FOLDER / "pg_regress.c").read_text())
    time_zone = found[1] if found else "PST8PDT"
    return Suite(version, top / SUITE_FOLDER, library, driver, time_zone)


def version_of(programs: Path) -> str:
    """The version of the server, as in 15.18."""
    answer = run([programs / "postgres", "--version"])
    found = re.search(r"\d+(\.\d+)+", answer)
    if not found:
        raise SourceError(f"no version in {answer!r}")
    return found[0]


def config_of(programs: Path, what: str) -> Path:
    """Asks pg_config, which may be that of the folder or that of the machine."""
    program = programs / "pg_config"
    return Path(run([program if program.exists() else "pg_config", what]).strip())


def fetched(version: str, cache: Path) -> Path:
    """The source tree of that version, from Debian."""
    top = cache / f"postgresql-{version}"
    if (top / SUITE_FOLDER / "sql").exists():
        return top
    apt = Apt(cache / "apt")
    source = f"postgresql-{version.split('.')[0]}"
    wanted = apt.version_like(source, version)
    apt.get(cache, "source", "--download-only", f"{source}={wanted}")
    archives = sorted(cache.glob(f"{source}_{version}*.orig.tar.*"))
    if not archives:
        raise SourceError(f"apt-get left no archive of {source} {wanted} in {cache}")
    wanted_files = f"postgresql-{version}/{SUITE_FOLDER}/"
    with tarfile.open(archives[0]) as archive:
        members = [member for member in archive if member.name.startswith(wanted_files)]
        # Older Pythons do not know filters; apt has checked where the archive comes from.
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(cache, members, **safe)
    return top


def headers(programs: Path, version: str, cache: Path) -> list[Path]:
    """The folders of the server's header files: the machine's, else those of Debian's packages."""
    server, client = config_of(programs, "--includedir-server"), config_of(programs, "--includedir")
    if (server / "postgres.h").exists() and (client / "postgres_ext.h").exists():
        return [server, client]
    top = cache / "dev"
    places = [top / path.relative_to("/") for path in (server, client)]
    if not all(place.exists() for place in places):
        apt = Apt(cache / "apt")
        major = version.split(".")[0]
        wanted = apt.version_like(f"postgresql-{major}", version)
        for package in (f"postgresql-server-dev-{major}", "libpq-dev"):
            apt.get(cache, "download", f"{package}={wanted}" if major in package else package)
            for archive in cache.glob(f"{package}_*.deb"):
                run(["dpkg", "-x", archive, top])
    return places


def compile_library(source: Path, includes: list[Path], target: Path) -> None:
    """Compiles the functions in C that tests call."""
    partial = target.with_suffix(".partial")
    flags = ["-O1", "-w", "-fPIC", "-shared", *(f"-I{folder}" for folder in includes)]
    run([os.environ.get("CC", "cc"), *flags, source, "-o", partial])
    partial.rename(target)


class Apt:
    """apt-get with sources, lists and archives of its own."""

    def __init__(self, folder: Path):
        if not shutil.which("apt-get") or not Path(KEYRING).exists():
            raise SourceError("no apt-get of Debian here: set PGTANDEM_REGRESS_SOURCE")
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        release = dict(
            line.split("=", 1)
            for line in Path("/etc/os-release").read_text().splitlines()
            if "=" in line
        )
        suite = release.get("VERSION_CODENAME", "stable").strip('"')
        sources = folder / "sources.list"
        sources.write_text(
            "".join(
                f"{kind} [signed-by={KEYRING}] {place} main\n"
                for kind in ("deb", "deb-src")
                for place in (f"{MIRROR} {suite}", f"{MIRROR}-security {suite}-security")
            )
        )
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "root",
        }
        self._options = [f"-o{key}={value}" for key, value in settings.items()]
        self.get(folder, "update")

    def get(self, folder: Path, *arguments: str) -> str:
        """Runs apt-get in a folder, where it leaves what it fetches."""
        return run(["apt-get", "-q", *self._options, *arguments], folder)

    def version_like(self, source: str, version: str) -> str:
        """Debian's name for a version of a source package that it still has."""
        listed = run(["apt-cache", *self._options, "showsrc", source])
        names = re.findall(r"^Version: (\S+)$", listed, re.MULTILINE)
        for name in names:
            if name.startswith(f"{version}-"):
                return name
        raise SourceError(f"Debian has {source} {' and '.join(names)}, and not {version}")


def run(command: list, folder: Path | None = None) -> str:
    """Runs a program to its end and returns what it printed."""
    try:
        answer = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise SourceError(f"{command[0]}: {error}") from error
    if answer.returncode != 0:
        raise SourceError(f"{' '.join(map(str, command))}:\n{answer.stdout}{answer.stderr}")
    return answer.stdout
