"""What /proc says about a process: CPU time spent and memory resident."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTime:
    """CPU seconds of a process, all its threads and those that have ended included."""

    user_s: float
    system_s: float

    def __sub__(self, earlier: "CpuTime") -> "CpuTime":
        return CpuTime(self.user_s - earlier.user_s, self.system_s - earlier.system_s)


def cpu_time(pid: int) -> CpuTime:
    """Reads the CPU time of `pid`; resolution is one tick (10 ms)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    # The command name may hold spaces and parentheses, so count from the last ")":
    # utime and stime are fields 14 and 15 of proc(5), the name is field 2.
    fields = stat.rpartition(")")[2].split()
    return CpuTime(int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND)


def family_cpu_s(pid: int) -> float:
    """Reads the CPU seconds of `pid` and its children, those that have ended included.

    That is a whole PostgreSQL cluster, whose processes are all children of the postmaster.
    """
    ticks = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # Field 4 is the parent; 14 and 15 are the process's own times, 16 and 17 those of children
        # that it has waited for.
        fields = stat.rpartition(")")[2].split()
        if int(entry) == pid:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == pid:
            ticks += sum(map(int, fields[11:13]))
    return ticks / TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Reads the resident memory of `pid`; one that has ended is a `ProcessLookupError`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has ended")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """Names the CPU of this host."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
