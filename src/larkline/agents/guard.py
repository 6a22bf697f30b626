# Plain os and try/except, because pathlib and contextlib would double the start time:
# ruff: noqa: PTH105, PTH108, PTH110, PTH112, PTH114, PTH115, PTH119, PTH123, PTH208, SIM105, D102
"""The resident guard: stands between larkline and an agent process, and ends its whole tree.

A script of its own, run as `python -IS guard.pyc AGENT_DIR CLI-ARGUMENTS...`; it imports nothing of
larkline and only C modules, because every agent start waits for it. It is told everything by
the file `launch` in AGENT_DIR (see `launcher.py`): NUL-separated key, value, key, value...

It promises: the process it starts and all that descend from it are gone before it exits, whether
the agent ends, the gateway ends (by any signal), or the guard is asked to end. Its exit code is the
agent's (128 + n for a signal). `guard.json` appears before anything is started, `status.json` when
nothing is left. The agent's environment is what `launch` says and nothing else.

Why it is the way it is: bubblewrap arms its kill-on-parent-death only after it has forked, so a
guard killed in that moment would leave a running agent (bubblewrap #633). Hence the shim: it runs
inside the namespace, asks, and starts the agent only on an answer; no answer, no agent.
"""

import _ctypes
import _signal  # type: ignore[import-not-found]  # `signal` would bring enum, 8 ms
import fcntl
import os
import resource
import select
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
REFUSED = 70
"""Exit code when the agent was not started; the reason is in status.json and on stderr."""
SHIM = 'echo r >&4; read x <&3 || exit 137; exec 3<&- 4>&-; exec "$@"'
START_SECONDS = 10.0
STDERR_FILE_BYTES = 256 * 1024
PIPE_BUF = 4096


def prctl(option: int, value: int) -> None:
    """The system call; `_ctypes` because importing ctypes costs a third of the start."""
    handle = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]  # None: this program itself
    call = _ctypes.dlsym(handle, "prctl")
    if _ctypes.call_function(call, (option, value, 0, 0, 0)) != 0:
        raise OSError(f"prctl({option}) failed")


def read_launch(path: str) -> dict[str, list[str]]:
    """The settings by key, each a list in the order of the file."""
    with open(path, "rb") as file:
        items = file.read().decode("utf-8", "surrogateescape").split("\0")
    found: dict[str, list[str]] = {}
    for key, value in zip(items[0::2], items[1::2], strict=False):
        found.setdefault(key, []).append(value)
    return found


def stat_fields(pid: int | str) -> list[str]:
    """/proc/PID/stat from the state on (index 0); empty if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def parents() -> dict[int, int]:
    """Every process's parent; zombies are left out."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_fields(name)
            if len(fields) > 1 and fields[0] not in "ZX":
                table[int(name)] = int(fields[1])
    return table


def descendants(root: int) -> list[int]:
    """All living processes below `root`, nearest first."""
    below: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        below.setdefault(parent, []).append(pid)
    found = list(below.get(root, ()))
    for pid in found:
        found.extend(below.get(pid, ()))
    return found


def children(pid: int) -> list[int]:
    """Children of a process with one thread; quicker than `descendants` where the kernel can."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:  # not every kernel has it
        return [child for child, parent in parents().items() if parent == pid]


def place(path: str, text: str, *, exclusive: bool = False) -> None:
    """Write a file whole or not at all; `exclusive` fails if it is there."""
    fresh = f"{path}.{os.getpid()}"
    with open(fresh, "w") as file:
        file.write(text)
    if exclusive:
        try:
            os.link(fresh, path)
        finally:
            os.unlink(fresh)
    else:
        os.replace(fresh, path)


class Ending(Exception):
    """The agent is not to be started; the text is the reason."""


class Guard:
    """One agent process from before its start until nothing of it is left."""

    def __init__(self, folder: str, arguments: list[str]) -> None:
        self.folder = folder
        self.arguments = arguments
        self.launch = read_launch(f"{folder}/launch")
        self.reason = ""  # why it ended; empty while nobody but the agent has decided
        self.killed_at: float | None = None  # when patience ends, monotonic
        self.child = 0
        self.code: int | None = None
        self.agent = -1  # pidfd of the agent's own process, once known
        self.pidns = ""
        self.stderr_bytes = 0

    def one(self, key: str, default: str = "") -> str:
        return self.launch.get(key, [default])[0]

    # Before anything runs

    def prepare(self) -> None:
        """Become the one who outlives; raises Ending when there is nobody to work for."""
        try:
            os.setsid()  # a Ctrl-C on larkline's terminal is larkline's to pass on
        except PermissionError:
            pass  # the leader of a session already
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        gateway = int(self.one("gateway"))
        try:
            self.gateway = os.pidfd_open(gateway)
        except ProcessLookupError:
            raise Ending("gateway_gone") from None
        if os.getppid() != gateway:  # in this order: the pidfd may be of a later process
            raise Ending("gateway_gone")
        self.wakeup, wake = os.pipe()
        for end in (self.wakeup, wake):
            os.set_blocking(end, False)
        _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGCHLD):
            _signal.signal(number, lambda *_: None)
        self.resume = self.resume_folder()
        self.write_record(exclusive=True)
        # The gateway leaves `cancelled` before it looks for guard.json; we look in the other
        # order. So one of the two sees the other, and a cancelled start starts nothing.
        if os.path.exists(f"{self.folder}/cancelled"):
            raise Ending("stopped")

    def resume_folder(self) -> str:
        """The SDK's temporary config folder if it made one; empty if not. Raises: Ending."""
        asked = os.environ.get("CLAUDE_CONFIG_DIR", "")
        if asked in ("", self.one("config")):
            return ""
        parent, name = os.path.split(asked)
        plain = os.path.isdir(asked) and not os.path.islink(asked)
        if parent == self.one("resume_root") and name.startswith("claude-resume-") and plain:
            return asked
        raise Ending("refused")

    def write_record(self, *, exclusive: bool = False) -> None:
        mine = stat_fields("self")
        place(
            f"{self.folder}/guard.json",
            f'{{"pid": {os.getpid()}, "start": {mine[19]}, "pidns": "{self.pidns}", '
            f'"resume": "{os.path.basename(self.resume)}"}}\n',
            exclusive=exclusive,
        )

    # The child

    def start(self) -> None:
        """Fork the agent, or bubblewrap with the shim in front of it."""
        self.ask, said = os.pipe()
        listen, self.answer = os.pipe()
        self.stderr, err = os.pipe()
        os.set_blocking(self.stderr, False)
        self.log = os.open(
            f"{self.folder}/stderr.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        guard = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            try:
                self.become_agent(guard, listen, said, err)
            except BaseException as error:
                os.write(2, f"larkline: cannot start the agent: {error}\n".encode())
            finally:
                os._exit(REFUSED)
        for end in (said, listen, err):
            os.close(end)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)  # the pipes are the agent's alone: their end must be its end
        os.dup2(null, 1)
        os.close(null)

    def become_agent(self, guard: int, listen: int, said: int, err: int) -> None:
        prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
        os.dup2(err, 2)
        _signal.set_wakeup_fd(-1)
        if os.getppid() != guard:
            os._exit(REFUSED)
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
            _signal.signal(number, _signal.SIG_DFL)  # Python ignores them, and exec would keep it
        bwrap = self.launch.get("bwrap", [])
        if bwrap:
            # Move out of the way first: 3 or 4 may be one of the three.
            listen, said = (fcntl.fcntl(n, fcntl.F_DUPFD_CLOEXEC, 10) for n in (listen, said))
            os.dup2(listen, 3)
            os.dup2(said, 4)
        for limit in self.launch.get("rlimit", []):
            name, _, value = limit.partition("=")
            which = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(which)[1]
            bound = int(value) if hard < 0 else min(int(value), hard)
            resource.setrlimit(which, (bound, bound))
        self.offer_to_oom(int(self.one("oom", "500")))
        os.nice(int(self.one("nice", "0")))
        # Batch: an agent that wakes up does not push the gateway off the processor in mid-write.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        command = [self.one("cli"), *self.arguments]
        if bwrap:
            late = ["--bind", self.resume, self.resume] if self.resume else []
            command = [
                *bwrap, *late, *self.launch["bwrap_end"],
                "--", "/bin/sh", "-c", SHIM, "larkline", *command,
            ]  # fmt: skip
        os.execve(command[0], command, self.environment())  # noqa: S606

    @staticmethod
    def offer_to_oom(score: int) -> None:
        """Ask the kernel to take the agent before larkline; a hint, so a refusal is no error."""
        try:
            with open("/proc/self/oom_score_adj", "r+") as file:
                if int(file.read()) < score:
                    file.seek(0)
                    file.write(str(score))
        except OSError:
            pass

    def environment(self) -> dict[str, str]:
        """What the agent gets: the listed values, and of ours only the listed names."""
        passed = {k: os.environ[k] for k in self.launch.get("pass", []) if k in os.environ}
        values = dict(item.split("=", 1) for item in self.launch.get("env", []))
        if self.resume:
            values["CLAUDE_CONFIG_DIR"] = self.resume
        return {**passed, **values}

    # While it runs

    def watch(self) -> None:
        """Returns when the child has ended or patience has."""
        ready = select.poll()
        sources = [self.gateway, self.wakeup, self.stderr]
        shim = bool(self.launch.get("bwrap"))
        if shim:
            sources.append(self.ask)
            self.killed_at = time.monotonic() + START_SECONDS
        else:
            self.agent = os.pidfd_open(self.child)
        for source in sources:
            ready.register(source, select.POLLIN)
        while self.code is None:
            left = None if self.killed_at is None else self.killed_at - time.monotonic()
            if left is not None and left <= 0:
                self.reason = self.reason or "start_failed"
                return
            for source, _ in ready.poll(None if left is None else left * 1000 + 1):
                if source == self.gateway:
                    ready.unregister(source)
                    self.end("gateway_gone", float(self.one("grace_gateway", "0.5")))
                elif source == self.stderr:
                    if not self.copy_stderr():
                        ready.unregister(source)
                elif source == self.ask:
                    ready.unregister(source)
                    self.let_go()
                else:
                    self.on_signals(os.read(self.wakeup, 512))

    def let_go(self) -> None:
        """The shim has asked: from here on the namespace dies with us; let the agent start."""
        if not os.read(self.ask, 2):
            return  # bubblewrap failed; its exit follows
        os.close(self.ask)
        inits = children(self.child)
        inner = [pid for init in inits for pid in children(init) if self.is_second(pid)]
        if self.reason or not inner:
            self.reason = self.reason or "start_failed"
            self.killed_at = time.monotonic()
            return
        self.agent = os.pidfd_open(inner[0])
        self.pidns = os.readlink(f"/proc/{inner[0]}/ns/pid")
        self.write_record()
        self.killed_at = None
        os.write(self.answer, b"go\n")
        os.close(self.answer)

    def is_second(self, pid: int) -> bool:
        """Whether it is process 2 of its own namespace: what bubblewrap was asked to run."""
        try:
            with open(f"/proc/{pid}/status") as file:
                for line in file:
                    if line.startswith("NSpid:"):
                        return line.split()[2:] != [] and line.split()[-1] == "2"
        except OSError:
            pass  # gone meanwhile
        return False

    def on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == _signal.SIGCHLD:
                self.reap()
            elif number == _signal.SIGINT and self.agent >= 0:
                self.tell(_signal.SIGINT)
            else:
                self.end("stopped", float(self.one("grace_stop", "1.5")))

    def reap(self) -> bool:
        """Collect who has ended; False when no child is left at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.child:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code

    def tell(self, number: int) -> None:
        try:
            _signal.pidfd_send_signal(self.agent, number)
        except ProcessLookupError:
            pass  # its end is on the way to us

    def end(self, reason: str, grace: float) -> None:
        """Ask the agent to end; what is left after `grace` seconds is killed."""
        until = time.monotonic() + (grace if self.agent >= 0 else 0)
        self.killed_at = until if not self.reason else min(until, self.killed_at or until)
        self.reason = self.reason or reason
        if self.agent >= 0:
            self.tell(_signal.SIGTERM)
            self.tell(_signal.SIGCONT)  # one that is stopped hears nothing else

    def copy_stderr(self) -> bool:
        """Move what is there into the file, and on to the SDK; False at its end."""
        try:
            chunk = os.read(self.stderr, PIPE_BUF)
        except BlockingIOError:
            return False
        if not chunk:
            return False
        try:
            if self.stderr_bytes > STDERR_FILE_BYTES:
                # Keep the newest: at most two files' worth, of which this is the older half.
                os.replace(f"{self.folder}/stderr.log", f"{self.folder}/stderr.old.log")
                os.close(self.log)
                self.log = os.open(f"{self.folder}/stderr.log", os.O_WRONLY | os.O_CREAT, 0o600)
                self.stderr_bytes = 0
            self.stderr_bytes += os.write(self.log, chunk)
        except OSError:
            pass  # a full disk costs the log, never the agent
        if self.one("forward_stderr") == "1":
            out = select.poll()
            out.register(2, select.POLLOUT)
            # Only when it cannot block: a reader that is slow loses lines, not the agent.
            if any(event == select.POLLOUT for _, event in out.poll(0)):
                try:
                    os.write(2, chunk)
                except OSError:
                    self.launch["forward_stderr"] = ["0"]
        return True

    # The end

    def sweep(self) -> None:
        """Kill all that is left below us; returns when the kernel says there is no child."""
        ready = select.poll()
        ready.register(self.wakeup, select.POLLIN)
        while self.reap():
            # Deepest last: the namespace's init takes everything inside with it.
            for pid in descendants(os.getpid()):
                try:
                    os.kill(pid, _signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it went with its namespace
            # Orphans come to us without a signal, so look again soon.
            if ready.poll(20):
                os.read(self.wakeup, 512)
        while self.copy_stderr():
            pass

    def run(self) -> int:
        try:
            self.prepare()
            self.start()
            self.watch()
        except Ending as ending:
            self.reason = str(ending)
            self.code = REFUSED
            sys.stderr.write(f"larkline: agent not started: {self.reason}\n")
        except FileExistsError:
            sys.stderr.write("larkline: this agent folder was used before\n")
            return REFUSED
        except Exception as error:
            self.reason = "failed"
            sys.stderr.write(f"larkline: the guard failed: {error!r}\n")
        finally:
            if self.child:
                self.sweep()
        if not self.reason:
            failed = self.agent < 0 or self.code == REFUSED
            self.reason = "start_failed" if failed else "exited"
        code = 137 if self.code is None else self.code
        try:
            place(f"{self.folder}/status.json", f'{{"reason": "{self.reason}", "code": {code}}}\n')
        except OSError as error:
            sys.stderr.write(f"larkline: cannot write status.json: {error}\n")
        return code


if __name__ == "__main__":
    os._exit(Guard(sys.argv[1], sys.argv[2:]).run())
