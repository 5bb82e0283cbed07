"""Run a command and write down what it cost: `python -I -S launch.py COST OUT ERR COMMAND ...`.

A process of its own, with next to nothing imported, because Linux counts the memory of the process that
started a command as the command's own peak (exec keeps the old image's high-water mark): started by a harness
of 80 MB, nothing would seem to need less than that.
"""

import os
import sys
import time


def main() -> int:
    """Wall and CPU seconds, peak memory in bytes and the exit code, as one line in the file COST."""
    cost, out, err, *command = sys.argv[1:]
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.execvp(command[0], command)  # noqa: S606 -- the harness's own command
        finally:
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    wall_s = time.monotonic() - started
    code = os.waitstatus_to_exitcode(status)
    line = f"{wall_s:.6f} {usage.ru_utime + usage.ru_stime:.6f} {usage.ru_maxrss * 1024} {code}\n"
    descriptor = os.open(cost, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, line.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
