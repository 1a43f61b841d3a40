"""A machine with systemd as process 1: this one's files under a layer of its own, in namespaces.

What it writes lies in a folder and outlives a power cut. Its network is loopback. Root is needed.
metaward is in /opt/metaward, as the units of `deploy/` want it: the interpreter and the packages
that run the test, mounted where a hardened unit may see them.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hospital_networks import what_is_missing as missing_programs

CHECKOUT = Path(__file__).parents[1]
SYSTEMD = Path("/lib/systemd/systemd")
SOURCES = ("common", "client", "server", "simulations")
SCRIPTS = ("metaward", "flwr", "flwr-*", "flower-*")  # patterns
LIBRARIES = "LD_LIBRARY_PATH=/opt/python/lib"
"""An interpreter may look for its library only where it was built, hidden from a unit."""
BOOT = """
set -euo pipefail
root=$1 layer=$2 python=$3 packages=$4 checkout=$5
# away from the processes of this machine, before the namespace of cgroups is made
find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs -printf '%h\\n' | while read -r group; do
    mkdir -p "$group/metaward-machine"
    echo $$ > "$group/metaward-machine/cgroup.procs" || true
done
exec unshare --pid --fork --kill-child --mount --uts --ipc --cgroup --net -- bash -euc '
root=$1 layer=$2 python=$3 packages=$4 checkout=$5
ip link set lo up
mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$root"
mkdir -p "$root"/opt/{python,checkout,metaward/packages} "$root/before"
mount --bind "$python" "$root/opt/python"
mount --bind "$checkout" "$root/opt/checkout"
mount --bind "$packages" "$root/opt/metaward/packages"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
for folder in run tmp dev; do mount -t tmpfs tmpfs "$root/$folder"; done
chmod 755 "$root/dev" "$root/run"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
groups="$root/sys/fs/cgroup"
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$groups"
else
    mount -t tmpfs tmpfs "$groups"
    mkdir "$groups/systemd" "$groups/memory" "$groups/unified"
    mount -t cgroup -o none,name=systemd cgroup "$groups/systemd"
    mount -t cgroup -o memory cgroup "$groups/memory"
    mount -t cgroup2 cgroup2 "$groups/unified"
fi
cd "$root"
pivot_root . before
umount -l /before
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=multi-user.target
' bash "$root" "$layer" "$python" "$packages" "$checkout"
"""


def what_is_missing() -> str:
    """Return why such a machine cannot be made here, or nothing."""
    if not SYSTEMD.exists():
        return "systemd not installed"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "no overlay file system"
    return missing_programs("unshare", "nsenter", "ip", "systemctl", "useradd", "runuser", "nginx")


@dataclass
class Machine:
    """One machine: `run` is a root shell on it."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def layer(self) -> Path:
        """What the machine wrote and this one does not have."""
        return self.folder / "upper"

    def boot(self) -> None:
        arguments = (self.folder / "root", self.folder, sys.base_prefix, _packages(), CHECKOUT)
        with (self.folder / "boot.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", BOOT, "bash", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(120):
            if self.process.poll() is None and self.run("systemctl is-system-running")[1] in (
                "running\n",
                "degraded\n",
            ):
                return
            time.sleep(0.5)
        raise TimeoutError((self.folder / "boot.log").read_text()[-2000:])

    def cut_power(self) -> None:
        """End every process at once, as a power cut does."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def run(self, command: str, *, timeout_s: float = 240) -> tuple[int, str]:
        """Run a shell command as root; return its exit code, and what it said."""
        assert self.process is not None
        first = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        if not first.strip():
            return 1, ""
        enter = ["nsenter", "-t", first.split()[0], "-p", "-m", "-u", "-i", "-C", "-n", "-r", "-w"]
        done = subprocess.run(
            [*enter, "env", "-i", *ENVIRONMENT, "bash", "-c", f"cd /root; {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            cwd="/",
            check=False,
        )
        return done.returncode, done.stdout

    def do(self, command: str) -> str:
        """Run a shell command that has to succeed; return what it said."""
        code, said = self.run(command)
        assert code == 0, f"{command}\n{said}\n{self.run('journalctl -b -n 30')[1]}"
        return said


ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "SYSTEMD_PAGER=",
    LIBRARIES,
)


def _packages() -> str:
    return sysconfig.get_path("purelib")


def _install(layer: Path) -> None:
    """Put /opt/metaward there, as `python -m venv` and pip would."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefix = layer / "opt" / "metaward"
    site = prefix / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "pyvenv.cfg").write_text("home = /opt/python/bin\n")
    for name in ("python", "python3"):
        (prefix / "bin" / name).symlink_to(f"/opt/python/bin/{version}")
    # the checkout first: what an editable installation points to may be hidden from a unit
    paths = [*(f"/opt/checkout/{name}" for name in SOURCES), "/opt/metaward/packages"]
    (site / "here.pth").write_text("\n".join(paths) + "\n")
    here = Path(sys.executable).parent
    for path in (path for pattern in SCRIPTS for path in here.glob(pattern)):
        lines = path.read_text().splitlines(keepends=True)
        script = prefix / "bin" / path.name
        script.write_text("".join(["#!/opt/metaward/bin/python3\n", *lines[1:]]))
        script.chmod(0o755)
    manager = layer / "etc" / "systemd" / "system.conf.d" / "python.conf"
    manager.parent.mkdir(parents=True)
    manager.write_text(f"[Manager]\nDefaultEnvironment={LIBRARIES}\n")


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Boot a machine that has metaward and none of this one's own units; its power is cut after."""
    made = Machine(folder)
    for name in ("root", "upper", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _install(made.layer)
    units = made.layer / "etc" / "systemd" / "system"
    units.mkdir(parents=True, exist_ok=True)
    for unit in _enabled_here():
        (units / unit).symlink_to("/dev/null")
    try:
        made.boot()
        yield made
    finally:
        made.cut_power()
        shutil.rmtree(folder / "work", ignore_errors=True)


def _enabled_here() -> list[str]:
    found = Path("/etc/systemd/system").glob("*.wants/*")
    return sorted({path.name for path in found if not path.name.startswith("metaward")})
