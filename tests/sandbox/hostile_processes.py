"""Code that means harm and that only a full CPython can run: it goes by the system, not by the language.

Each source defines `attack()`. It returns `OWNED`, or prints it, if it got what it wanted; `echo` is a host function.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent, indent

OWNED = "owned-by-the-code"

_HEAD = f"""
import ctypes, errno, fcntl, gc, json, mmap, os, resource, signal, socket, struct, sys, threading, time
OWNED = {OWNED!r}
libc = ctypes.CDLL(None, use_errno=True)

def frame(body):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return struct.pack(">I", len(body)) + body

def answered(data):
    os.set_blocking(3, True)
    for number in range(3, 64):
        try:
            os.write(number, data)
        except OSError:
            pass
    os._exit(0)

"""


@dataclass(frozen=True, slots=True)
class Attack:
    """`answer` is how the answer must begin, where there is only one."""

    name: str
    source: str
    answer: str | None = None

    def __str__(self) -> str:
        return self.name


def _attack(name: str, body: str, answer: str | None = None) -> Attack:
    return Attack(name, f"{_HEAD}def attack():\n{indent(dedent(body).strip(), '    ')}\n", answer)


def _call(name: str, number: int, *arguments: object) -> Attack:
    """A system call, by its number on x86_64; on others the number is another's, or nobody's."""
    given = "".join(f", ctypes.c_long({one})" for one in arguments)
    body = f"result = libc.syscall(ctypes.c_long({number}){given})\nreturn OWNED if result >= 0 else ctypes.get_errno()"
    return _attack(name, f"if os.uname().machine != 'x86_64': return 1\n{body}", "returned: 1 ")


_SYSTEM_CALLS = [
    _call("ptrace", 101, 0, 0, 0, 0),
    _call("io_uring", 425, 8, "id(bytearray(256)) + 32"),
    _call("inotify", 253),
    _call("fanotify", 300, 0, 0),
    _call("perf events", 298, 0, 0, -1, -1, 0),
    _call("bpf", 321, 0, 0, 0),
    _call("userfaultfd", 323, 0),
    _call("a key ring", 250, 0, -3, 1),
    _call("a memory file", 319, "id(b'x') + 32", 0),
    _call("shared memory", 29, 0, 4096, 0o1777),
    _call("a message queue", 68, 0, 0o1777),
    _call("new namespaces", 272, 0x10000000),
    _call("a mount", 165, 0, 0, 0, 0, 0),
    _call("another root", 161, "id(b'/') + 32"),
    _call("clone3", 435, 0, 88),
    _call("vfork", 58),
    _call("reading another process", 310, 1, 0, 0, 0, 0, 0),
    _call("a descriptor of another process", 438, 0, 0, 0),
    _call("a descriptor of a process", 434, 1, 0),
    _call("personality", 135, 0x0400000),
    _call("a timer", 222, 2, 0, 0),
    _call("deleting the timer of the limit", 226, 0),
    _call("changing the timer of the limit", 223, 0, 0, 0, 0),
    _call("prctl", 157, 4, 0, 0, 0, 0),
    _call("a new session", 112),
    _call("another priority", 141, 0, 0, -20),
    _call("sendmsg", 46, 3, 0, 0),
    _call("splice", 275, 0, 0, 0, 0, 0, 0),
    _call("pipes", 293, "id(bytes(64)) + 32", 0),
    _attack(
        "the calls of another architecture",
        """
        if os.uname().machine != "x86_64": os._exit(1)
        memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        memory.write(bytes.fromhex("b814000000cd80c3"))  # getpid of 32 bits
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return [OWNED, ctypes.CFUNCTYPE(ctypes.c_int)(place)()]
    """,
        "failed: The code ",
    ),
    _attack(
        "the calls of x32",
        """
        if os.uname().machine != "x86_64": os._exit(1)
        return [OWNED, libc.syscall(ctypes.c_long(0x40000000 + 39))]
    """,
        "failed: The code ",
    ),
]

_PROCESSES = [
    _attack(
        "a fork bomb that catches everything", "while True:\n    try: os.fork()\n    except OSError: pass", "limit: "
    ),
    _attack("a fork", "return OWNED if os.fork() >= 0 else None", "failed: PermissionError"),
    _attack("exec of Python", "os.execv('/python/bin/python3', ['python3', '-c', 'pass'])", "failed: PermissionError"),
    _attack(
        "a program by posix_spawn",
        "return OWNED, os.posix_spawn('/python/bin/python3', ['python3', '-V'], {})",
        "failed: ",
    ),
    _attack(
        "multiprocessing", "import multiprocessing\nreturn OWNED, multiprocessing.Pool(2).map(abs, [1])", "failed: "
    ),
    _attack("a thread", "threading.Thread(target=print, args=(OWNED,)).start()", "failed: RuntimeError"),
    _attack(
        "a process pool",
        "from concurrent.futures import *\nreturn ProcessPoolExecutor().submit(abs, 1).result(), OWNED",
    ),
    _attack("killing all", "return OWNED if libc.kill(-1, 9) == 0 else 1", "returned: 1 "),
    _attack("killing the worker", "os.kill(1, 9)\nreturn OWNED", "failed: PermissionError"),
    _attack("stopping itself", "os.kill(os.getpid(), signal.SIGSTOP)\nreturn OWNED", "failed: PermissionError"),
    _attack("stopping itself by raise", "signal.raise_signal(signal.SIGSTOP)\nreturn OWNED", "failed: PermissionError"),
    _attack(
        "signals by the owner of a descriptor",
        """
        done = []
        # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETPIPE_SZ
        for command, value in ((8, 1), (10, 9), (15, 1), (1031, 1 << 20)):
            try:
                fcntl.fcntl(3, command, value)
                done.append(OWNED)
            except OSError:
                pass
        return done
    """,
        "returned: [] ",
    ),
]

_LIMITS = [
    _attack(
        "higher limits",
        """
        done = []
        for limit in range(16):
            try:
                resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                done.append(OWNED)
            except (OSError, ValueError):
                pass
        return done
    """,
        "returned: [] ",
    ),
    _attack(
        "burning while every signal is blocked",
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True: pass
    """,
        "limit: cpu_seconds",
    ),
    _attack("burning outside of Python", "return sum(range(10 ** 12)), 10 ** (10 ** 9)", "limit: "),
    _attack("a regular expression that burns", "import re\nreturn re.match('(a|a)*$', 'a' * 60 + 'b')", "limit: "),
    _attack("sleeping", "while True: time.sleep(1000)", "limit: wall_seconds"),
    _attack("waiting for what never comes", "libc.poll(0, 0, -1)\nwhile True: time.sleep(1)", "limit: wall_seconds"),
    _attack("memory by mmap", "kept = [mmap.mmap(-1, 1 << 24) for _ in range(100)]\nreturn OWNED", "failed: OSError"),
    _attack(
        "memory by malloc",
        "libc.malloc.restype = ctypes.c_void_p\nreturn OWNED if libc.malloc(1 << 28) else 1",
        "returned: 1 ",
    ),
    _attack("memory by a sparse map", "return OWNED, len(mmap.mmap(-1, 1 << 40))", "failed: "),
    _attack(
        "memory of a tower of lists",
        "kept = []\nwhile True: kept.append(kept[:] * 2 + [0])",
        "limit: memory",
    ),
    _attack(
        "memory, with the error caught",
        """
        kept = []
        while True:
            try:
                kept.append(bytearray(1 << 20))
            except MemoryError:
                break
        time.sleep(60)
    """,
        "limit: wall_seconds",
    ),
    _attack(
        "descriptors without end",
        """
        kept = []
        while True: kept.append(socket.socketpair())
    """,
        "failed: OSError",
    ),
    _attack("the stack", "sys.setrecursionlimit(10 ** 9)\ndef down(): return down()\nreturn down()"),
    _attack(
        "the stack of C",
        """
        sys.setrecursionlimit(10 ** 9)
        deep = []
        for _ in range(10 ** 6): deep = [deep]
        return repr(deep)
    """,
    ),
    _attack("the stack of __del__", "deep = []\nfor _ in range(10 ** 6): deep = [deep]\ndel deep\nreturn 1"),
    _attack("a page of zeros", "import faulthandler\nfaulthandler._sigsegv()", "returned: None"),
    _attack("a fatal error", "import faulthandler\nfaulthandler._fatal_error_c_thread()\ntime.sleep(60)"),
    _attack("abort", "os.abort()", "failed: The code crashed"),
    _attack("code that is no code", "exec((lambda: 0).__code__.replace(co_code=b'\\xff\\xff' * 100))"),
]

_FILES = [
    _attack(
        "writing anywhere",
        """
        done = []
        places = ["/", "/tmp", "/dev/shm", "/code", "/code/sandbox", "/libraries", "/python"]
        for folder in places:
            try:
                open(folder + "/left", "w").write("x")
                done.append((OWNED, folder))
            except OSError:
                pass
        for folder, _, names in os.walk("/code"):
            for name in names:
                try:
                    open(folder + "/" + name, "r+b")
                    done.append((OWNED, name))
                except OSError:
                    pass
        return done
    """,
        "returned: [] ",
    ),
    _attack("a temporary file", "import tempfile\ntempfile.TemporaryFile().write(b'x')\nreturn OWNED", "failed: "),
    _attack(
        "a named shared memory",
        "from multiprocessing.shared_memory import SharedMemory\nreturn OWNED, SharedMemory(create=True, size=10)",
        "failed: ",
    ),
    _attack("the processes", "return OWNED, os.listdir('/proc')", "failed: FileNotFoundError"),
    _attack(
        "the environment of the first process",
        "return OWNED, open('/proc/1/environ').read()",
        "failed: FileNotFoundError",
    ),
    _attack(
        "the memory of the first process",
        "return OWNED, open('/proc/1/mem', 'rb').read(1)",
        "failed: FileNotFoundError",
    ),
    _attack("devices", "return OWNED, os.listdir('/dev')", "failed: FileNotFoundError"),
    _attack("the users", "import pwd\nreturn OWNED, pwd.getpwuid(0)", "failed: KeyError"),
    _attack("the machine's name", "return OWNED if os.uname().nodename != 'sandbox' else 1", "returned: 1 "),
    _attack("who it is", "return OWNED if 0 in (os.getuid(), os.geteuid(), os.getgid()) else 1", "returned: 1 "),
    _attack("becoming another", "os.setuid(0)\nreturn OWNED", "failed: "),
    _attack(
        "descriptors that were left open",
        """
        found = []
        for number in range(1024):
            try:
                os.fstat(number)
                found.append(number)
            except OSError:
                pass
        return found
    """,
        "returned: [0, 1, 2, 3] ",
    ),
    _attack(
        "standard input and output",
        "os.write(1, b'x' * 10 ** 6)\nos.write(2, b'x' * 10 ** 6)\nreturn os.read(0, 10).hex()",
        "returned:  ",
    ),
    _attack(
        "the variables of C",
        "libc.getenv.restype = ctypes.c_char_p\nreturn [str(libc.getenv(name)) for name in (b'PATH', b'HOME')]",
        "returned: ['None', 'None'] ",
    ),
    _attack("modules of packages that are installed", "import pytest\nreturn OWNED", "failed: ModuleNotFoundError"),
]

_NETWORK = [
    _attack(
        "every kind of socket",
        """
        made = []
        for family in range(46):
            for kind in (1, 2, 3, 5):
                try:
                    socket.socket(family, kind)
                    made.append((OWNED, family, kind))
                except OSError:
                    pass
        return made
    """,
        "returned: [] ",
    ),
    _attack(
        "a datagram for an abstract name",
        """
        one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.sendto(b"x", "\\0name")
        return OWNED
    """,
        "failed: PermissionError",
    ),
    _attack("listening", "one, _ = socket.socketpair()\none.listen()\nreturn OWNED", "failed: PermissionError"),
    _attack(
        "a descriptor over the channel",
        "one, _ = socket.socketpair()\nsocket.send_fds(one, [b'x'], [0])\nreturn OWNED",
        "failed: PermissionError",
    ),
]

_PROTOCOL = [
    _attack("closing its descriptors", "os.closerange(0, 64)\nreturn OWNED", "failed: "),
    _attack("closing its descriptors and burning", "os.closerange(0, 64)\nwhile True: pass", "limit: cpu_seconds"),
    _attack(
        "closing its descriptors and sleeping", "os.closerange(0, 64)\nwhile True: time.sleep(1)", "limit: wall_seconds"
    ),
    _attack("garbage", "answered(os.urandom(4000))"),
    _attack("nothing but noughts", "answered(bytes(4000))", "failed: The code broke"),
    _attack("a frame of four gigabytes", "answered(b'\\xff' * 4 + b'x' * 1000)", "limit: output"),
    _attack("half a frame", "answered(b'\\0\\0\\1\\0' + b'{')", "failed: The code ended"),
    _attack(
        "half a frame, and waiting", "os.write(3, b'\\0\\0\\1\\0{')\nwhile True: time.sleep(1)", "limit: wall_seconds"
    ),
    _attack("a frame that is a list", "answered(frame([OWNED]))", "failed: The code broke"),
    _attack("a frame of half characters", 'answered(frame(b\'{"value": "\\xff"}\'))', "failed: The code broke"),
    _attack("a frame of no known kind", "answered(frame({'owned': OWNED}))", "failed: The code broke"),
    _attack("an answer without what was printed", "answered(frame({'value': OWNED}))", "failed: The code broke"),
    _attack("an answer that printed a number", "answered(frame({'value': 1, 'printed': 2}))", "failed: The code broke"),
    _attack("an unknown limit", "answered(frame({'limit': OWNED}))", "failed: The code broke"),
    _attack("a failure that is no text", "answered(frame({'failed': [OWNED]}))", "failed: The code broke"),
    _attack("a failure that is long", "answered(frame({'failed': 'x' * 30000}))", "failed: xxx"),
    _attack(
        "the name of a function that was checked", "answered(frame({'function': OWNED}))", "failed: The code broke"
    ),
    _attack(
        "the end of another call", "answered(frame({'ended': 1, 'status': 0, 'cpu': 0}))", "failed: The code broke"
    ),
    _attack("an order to the worker", "answered(json.dumps({'end': 1}).encode())"),
    _attack(
        "a host function that there is not",
        "answered(frame({'host': '__class__', 'id': 1, 'arguments': [[], {}]}))",
        "failed: The code broke",
    ),
    _attack(
        "a host function that is a list",
        "answered(frame({'host': ['echo'], 'id': 1, 'arguments': [[], {}]}))",
        "failed: The code broke",
    ),
    _attack(
        "a host function without arguments", "answered(frame({'host': 'echo', 'id': 1}))", "failed: The code broke"
    ),
    _attack(
        "a host function with odd arguments",
        "answered(frame({'host': 'echo', 'id': [1], 'arguments': [{}, []]}))",
        "failed: The code broke",
    ),
    _attack(
        "host functions without reading",
        """
        data = frame({"host": "echo", "id": 1, "arguments": [["x" * 500000], {}]})
        while True:
            try: os.write(3, data)
            except BlockingIOError: time.sleep(0.01)
    """,
    ),
    _attack(
        "JSON that is nested deeply",
        "answered(frame(b'{\"value\": ' + b'[' * 50000 + b']' * 50000 + b', \"printed\": \"\"}'))",
        "failed: The code broke",
    ),
    _attack(
        "JSON that is nested somewhat",
        "answered(frame(b'{\"value\": ' + b'[' * 500 + b']' * 500 + b', \"printed\": \"\"}'))",
        "failed: The code broke",
    ),
    _attack(
        "JSON with a long number",
        "answered(frame(b'{\"value\": ' + b'9' * 100000 + b', \"printed\": \"\"}'))",
        "failed: The code broke",
    ),
    _attack(
        "JSON with no number",
        'answered(frame(b\'{"value": [NaN, -Infinity], "printed": ""}\'))',
        "returned: ['nan', '-inf'] ",
    ),
    _attack(
        "JSON with half a surrogate pair",
        'answered(frame(b\'{"value": "\\\\ud800", "printed": "\\\\udfff"}\'))',
        "returned: ? ?",
    ),
    _attack(
        "many small things",
        "answered(frame(b'{\"value\": [' + b'[],' * 600000 + b'0], \"printed\": \"\"}'))",
        "limit: output",
    ),
    _attack("too much of both", "answered(frame({'value': 'x' * 600000, 'printed': 'x' * 600000}))", "limit: output"),
    _attack(
        "two answers",
        "answered(frame({'value': 1, 'printed': ''}) + frame({'value': OWNED, 'printed': ''}))",
        "returned: 1 ",
    ),
    _attack(
        "an answer, and living on", "os.write(3, frame({'value': 1, 'printed': ''}))\nwhile True: pass", "returned: 1 "
    ),
    _attack(
        "functions for the end of the process",
        "import atexit\natexit.register(lambda: answered(frame({'value': OWNED, 'printed': OWNED})))\nreturn 1",
        "returned: 1 ",
    ),
    _attack(
        "an object that will not die",
        "class Odd:\n    def __del__(self):\n        while True: time.sleep(1)\nOdd.kept = Odd()\nOdd()\nreturn OWNED",
        "limit: wall_seconds",
    ),
    _attack(
        "the channel of the call",
        """
        for held in gc.get_objects():
            if type(held).__name__ in ("_Channel", "_Call", "_Worker"):
                vars(held).clear()
        return echo(1)
    """,
    ),
    _attack(
        "a loop that was stopped",
        "import asyncio\nasync def stop(): asyncio.get_running_loop().stop(); await echo(1)\nreturn stop()",
    ),
]

ATTACKS = [*_SYSTEM_CALLS, *_PROCESSES, *_LIMITS, *_FILES, *_NETWORK, *_PROTOCOL]
