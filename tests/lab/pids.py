"""The first process of a pid namespace: it starts jerry's programs there, one of them with the pid that another one had.

pids.py LAB, as root in a namespace of its own with its own /proc. Each line of its input is answered by one line:

start PID LOG CMD...   starts CMD with this pid, or with any if it is 0; its output goes to LAB/log/LOG; says the pid
end PID                kills it and waits for its end; says so
"""

import os
import shlex
import signal
import sys
import time

JERRY = 2001
# Somebody else's process, or thread, may take the pid that was just made free: then it is tried again.
PATIENCE = 30


def environment(lab):
    return {
        "HOME": "/home/jerry",
        "USER": "jerry",
        "XDG_RUNTIME_DIR": f"/run/user/{JERRY}",
        "PORTLATCH_CLOCK_OFFSET": f"{lab}/clock",
        "PATH": "/opt/portlatch/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
    }


def become(lab, log, command):
    output = os.open(f"{lab}/log/{log}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 256)
    os.setgroups([])
    os.setgid(JERRY)
    os.setuid(JERRY)
    os.chdir("/home/jerry")
    os.execvpe(command[0], command, environment(lab))


def start(lab, pid, log, command):
    deadline = time.monotonic() + PATIENCE
    while True:
        if pid:
            with open("/proc/sys/kernel/ns_last_pid", "w") as last:
                last.write(str(pid - 1))
        gate, opener = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(opener)
            if os.read(gate, 1):
                become(lab, log, command)
            os._exit(1)
        os.close(gate)
        if child == pid or not pid:
            os.write(opener, b"!")
            os.close(opener)
            return child
        os.close(opener)
        os.waitpid(child, 0)
        if time.monotonic() > deadline:
            sys.exit(f"pid {pid} is not to be had")


def main(lab):
    for line in sys.stdin:
        word, pid, *rest = shlex.split(line)
        if word == "start":
            print(start(lab, int(pid), rest[0], rest[1:]), flush=True)
        else:
            os.kill(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)
            print("ended", flush=True)


main(sys.argv[1])
