"""A server of its own whose log lies in a pitr repository, in a folder of plain
segments, and where pgbackrest is installed in an archive of its own: what
measure-replay and measure-fetch measure against.
"""
import argparse
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time


def parser(documentation):
    """The arguments that both have."""
    made = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("programs", type=pathlib.Path)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--segments", type=int, default=100)
    made.add_argument("--pg-bin", type=pathlib.Path, default=pathlib.Path("/usr/lib/postgresql/15/bin"))
    made.add_argument("--work", type=pathlib.Path)
    made.add_argument("--only")
    return made


def as_server_user(arguments, script):
    """Goes on as the user postgres (or $PITR_MEASURE_USER) where this is root,
    whom no server runs for; returns the folder to work in."""
    if os.geteuid() != 0:
        # a folder of its own: it is removed in the end
        return pathlib.Path(tempfile.mkdtemp(prefix="measure.", dir=arguments.work or "/var/tmp"))
    user = os.environ.get("PITR_MEASURE_USER", "postgres")
    work = pathlib.Path(tempfile.mkdtemp(prefix="measure.", dir=arguments.work or "/var/tmp"))
    for path in [arguments.programs / "pitr-archive", arguments.programs / "pitr-restore", __file__, script]:
        shutil.copy(path, work)
    shutil.chown(work, user)
    # an interpreter in somebody's home is not for everybody
    python = next((path for path in ["/usr/bin/python3"] if os.path.exists(path)), sys.executable)
    words = [python, work / os.path.basename(script), work]
    for name, value in (vars(arguments) | {"programs": None, "work": work}).items():
        words += [f"--{name.replace('_', '-')}", value] if value is not None else []
    status = subprocess.run(["runuser", "-u", user, "--", *map(str, words)], cwd="/").returncode
    shutil.rmtree(work, ignore_errors=True)
    sys.exit(status)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class MeasuredArchive:
    def __init__(self, arguments, work):
        self.work, self.pg_bin, self.wanted = work, arguments.pg_bin, arguments.segments
        self.pitr = {name: str((arguments.programs / name).absolute()) for name in ["pitr-archive", "pitr-restore"]}
        self.repository, self.plain, self.original = work / "repository", work / "plain", work / "original"
        self.environment = {
            "PATH": os.environ["PATH"], "PITR_CONFIG": "/dev/null", "PITR_REPO": str(self.repository),
            "PGUSER": "measure", "PGHOST": str(work), "PGDATABASE": "postgres", "PGPORT": free_port(),
            "LC_ALL": "C.UTF-8", "XDG_STATE_HOME": str(work / "state")}
        self.pgbackrest = shutil.which("pgbackrest")

    def run(self, *words, check=True):
        done = subprocess.run([str(word) for word in words], env=self.environment, text=True, cwd=self.work,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if check and done.returncode:
            sys.exit(f"{words}: {done.returncode}\n{done.stdout}")
        return done.stdout

    def sql(self, text):
        return self.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text).strip()

    def start(self, directory, log):
        # an inherited pipe would stay open as long as the server runs
        subprocess.run([self.pg_bin / "pg_ctl", "start", "--no-wait", "-s", "-D", directory, "-l", log],
                       env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True)

    def stop(self, directory, mode="immediate"):
        self.run(self.pg_bin / "pg_ctl", "stop", "-m", mode, "-s", "-D", directory, check=False)

    def pgbackrest_words(self, directory, *words):
        return [self.pgbackrest, f"--config={self.work}/pgbackrest.conf", "--stanza=measure",
                f"--pg1-path={directory}", *words]

    def segments(self):
        return sorted(path.name for path in self.plain.iterdir() if len(path.name) == 24)

    def make(self):
        """Writes the log, with a backup before it."""
        original, port = self.original, self.environment["PGPORT"]
        self.run(self.pg_bin / "initdb", "-D", original, "-U", "measure", "-A", "trust", "--no-sync")
        archive = f"cp %p {self.plain}/%f && {self.pitr['pitr-archive']} --repo {self.repository} %p %f"
        with open(original / "postgresql.conf", "a") as file:
            file.write(f"port = {port}\nunix_socket_directories = '{self.work}'\nlisten_addresses = ''\n"
                       # it makes the log, and is not what is measured
                       "fsync = off\nsynchronous_commit = off\n"
                       "max_wal_size = '4GB'\ncheckpoint_timeout = '1h'\nshared_buffers = '256MB'\n"
                       f"archive_mode = on\narchive_command = '{archive}'\nlog_checkpoints = off\n")
        self.plain.mkdir()
        self.run(self.pitr["pitr-archive"], "init")
        self.start(original, self.work / "original.log")
        while "accepting" not in self.run(self.pg_bin / "pg_isready", check=False):
            time.sleep(0.1)
        self.run("pgbench", "-i", "-q", "-s", "10")
        self.sql("CREATE TABLE copied (id bigint, text text)")
        self.run(self.pitr["pitr-archive"], "backup", "-d", "connect_timeout=10")
        begin = self.sql("SELECT pg_current_wal_lsn()")
        rows = self.work / "rows"
        with open(rows, "w") as file:
            for number in range(60_000):
                file.write(f"{number}\t{'%032x' % (number * 0x9E3779B97F4A7C15F39CC060 % 2**128) * 8}\n")

        def written():
            return float(self.sql(f"SELECT (pg_current_wal_lsn() - '{begin}') / (16 * 1024 * 1024.0)"))

        while written() < self.wanted:
            while written() < self.wanted / 2:
                self.run("pgbench", "-n", "-M", "prepared", "-c", "4", "-T", "3")
            self.sql(f"\\copy copied from '{rows}'")
        last = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        while self.sql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") < last:
            time.sleep(0.2)
        rows.unlink()
        self.first = self.sql(f"SELECT pg_walfile_name('{begin}')")
        if self.pgbackrest:
            self.fill_pgbackrest()
        self.stop(original, "fast")

    def fill_pgbackrest(self):
        (self.work / "pgbackrest.conf").write_text(
            f"[global]\nrepo1-path={self.work}/pgbackrest\nlog-path={self.work}\nlock-path={self.work}/lock\n"
            f"spool-path={self.work}/spool\nlog-level-console=off\nlog-level-file=off\ncompress-type=zst\n"
            f"[measure]\npg1-path={self.original}\npg1-socket-path={self.work}\n"
            f"pg1-port={self.environment['PGPORT']}\npg1-user=measure\n")
        self.run(*self.pgbackrest_words(self.original, "stanza-create"))
        for name in self.segments():
            self.run(*self.pgbackrest_words(self.original, "archive-push", self.plain / name))
