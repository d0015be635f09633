"""Code that means harm, as data: every sandbox must end each of these within its limits, and give nothing away.

Each source defines `attack(path)`; `path` is a file of the server that holds the canary. At hand are the host functions
`echo`, which returns what it is given, and `fail`, which raises an exception whose traceback knows the canary.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

CANARY = "canary-7f3d9b1c-never-to-be-seen"
VARIABLE = "INNKEEPER_TEST_CANARY"


@dataclass(frozen=True, slots=True)
class Attack:
    """`limit` is the limit that must have ended it, where it can only end by one."""

    name: str
    source: str
    limit: str | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def limits(self) -> tuple[str, ...]:
        """Those that may end it: on a busy machine, time comes first."""
        return () if self.limit is None else (self.limit, "cpu_seconds", "wall_seconds")


def _attack(name: str, body: str, limit: str | None = None, *, head: str = "", is_async: bool = False) -> Attack:
    lines = "\n".join(f"    {line}" for line in dedent(body).strip().splitlines())
    return Attack(name, f"{dedent(head)}\n{'async ' if is_async else ''}def attack(path):\n{lines}\n", limit)


_FOREVER = [
    _attack("a loop", "while True: pass", "cpu_seconds"),
    _attack(
        "a loop that catches everything",
        """
        while True:
            try:
                while True: pass
            except BaseException:
                pass
    """,
        "cpu_seconds",
    ),
    _attack(
        "a loop in finally",
        """
        try:
            return 1
        finally:
            while True: pass
    """,
        "cpu_seconds",
    ),
    _attack("a loop at the top", "return 1", "cpu_seconds", head="while True: pass"),
    _attack("a long sum", "return sum(range(10 ** 12))", "cpu_seconds"),
    _attack("an async loop", "while True: pass", "cpu_seconds", is_async=True),
    _attack(
        "async that never ends", "await asyncio.sleep(10 ** 6)", "wall_seconds", head="import asyncio", is_async=True
    ),
    _attack("sleep that never ends", "time.sleep(10 ** 6)", "wall_seconds", head="import time"),
    _attack("short sleeps without end", "while True: time.sleep(0.01)", "wall_seconds", head="import time"),
    _attack(
        "a regular expression that backtracks", "return re.match('(a+)+$', 'a' * 40 + 'b') is None", head="import re"
    ),
    _attack("nested quantifiers", "return bool(re.match('((a*)*)*c', 'a' * 50 + 'd'))", head="import re"),
    _attack("a huge power", "return 10 ** 10 ** 8"),
    _attack("a huge shift", "return 1 << (1 << 40)"),
    _attack(
        "a product of huge numbers",
        """
        number = 3 ** 1000
        while True: number = number * number
    """,
    ),
    _attack("a huge number as text", "return str(7 ** 4000000)"),
    _attack("a number of many digits from text", "return int('9' * 4000000)"),
]

_DEEP = [
    _attack("recursion", "return attack(path)", "recursion"),
    _attack("mutual recursion", "return again(path)", "recursion", head="def again(path): return attack(path)"),
    _attack(
        "recursion that catches itself",
        """
        try:
            return attack(path)
        except RecursionError:
            return attack(path)
    """,
    ),
    _attack(
        "recursion in repr",
        """
        deep = []
        for _ in range(100000): deep = [deep]
        return repr(deep)
    """,
    ),
    _attack(
        "recursion in comparison",
        """
        one, other = [], []
        for _ in range(100000): one, other = [one], [other]
        return one == other
    """,
    ),
    _attack(
        "recursion in JSON",
        """
        deep = []
        for _ in range(100000): deep = [deep]
        return json.dumps(deep)
    """,
        head="import json",
    ),
    _attack("JSON nested deeply", "return json.loads('[' * 100000)", head="import json"),
    _attack("eval nested deeply", "return eval('(' * 10000 + ')' * 10000)"),
    _attack("eval of a long chain", "return eval('-' * 100000 + '1')"),
]

_MEMORY = [
    _attack(
        "a list without end",
        """
        items = []
        while True: items.append('x' * 1000)
    """,
        "memory",
    ),
    _attack("a list of a billion", "return len([0] * 10 ** 10)"),
    _attack("a text of ten billion", "return len('x' * 10 ** 10)"),
    _attack(
        "a text that doubles",
        """
        text = 'x'
        while True: text = text + text
    """,
    ),
    _attack(
        "a dictionary without end",
        """
        items = {}
        while True: items[len(items)] = str(len(items)) * 100
    """,
        "memory",
    ),
    _attack("bytes of ten billion", "return len(bytes(10 ** 10))"),
    _attack("padding", "return len('{:>10000000000}'.format('x'))"),
    _attack("padding in an f-string", "return len(f'{1:>10000000000}')"),
    _attack("padding with percent", "return len('%10000000000d' % 1)"),
    _attack("joining", "return len((',' * 10 ** 6).join(['x'] * 10 ** 6))"),
    _attack("replacing", "return len(('a' * 10 ** 6).replace('a', 'b' * 10 ** 6))"),
    _attack(
        "allocation that catches everything",
        """
        kept = []
        while True:
            try:
                kept.append([0] * 10 ** 6)
            except BaseException:
                kept.append(1)
    """,
    ),
]

_OUTPUT = [
    _attack("printing a hundred megabytes", "for _ in range(100): print('x' * 10 ** 6)", "output"),
    _attack("printing without end", "while True: print('x')", "output"),
    _attack("printing to standard error", "print('x' * 2 * 10 ** 6, file=sys.stderr)", head="import sys"),
    _attack("returning ten megabytes", "return 'x' * 10 ** 7", "output"),
    _attack("returning many small things", "return [0] * 600000", "output"),
    _attack(
        "returning a list of lists of lists",
        """
        items = [0] * 1000
        for _ in range(5): items = [items] * 1000
        return items
    """,
        "output",
    ),
    _attack(
        "returning what is nested deeply",
        """
        deep = []
        for _ in range(100000): deep = [deep]
        return deep
    """,
    ),
    _attack(
        "returning a dictionary nested deeply",
        """
        deep = {}
        for _ in range(100000): deep = {'a': deep}
        return deep
    """,
    ),
    _attack(
        "returning a tuple nested deeply",
        """
        deep = ()
        for _ in range(100000): deep = (deep,)
        return deep
    """,
    ),
    _attack(
        "returning what contains itself",
        """
        circle = []
        circle.append(circle)
        return circle
    """,
    ),
    _attack("returning an infinite number", "return [float('inf'), float('nan')]"),
    _attack("returning functions", "return [attack, print, open, type]"),
    _attack("raising ten megabytes", "raise ValueError('x' * 10 ** 7)"),
]

_SECRETS = [
    _attack("the environment by os", "return dict(os.environ)", head="import os"),
    _attack("one variable by os", f"return os.getenv({VARIABLE!r})", head="import os"),
    _attack("the environment by /proc", "return open('/proc/self/environ').read()"),
    _attack(
        "the parent's environment by /proc",
        """
        found = []
        for number in list(range(1, 100)) + [os.getppid(), os.getpid()]:
            try:
                found.append(open('/proc/' + str(number) + '/environ').read())
            except Exception:
                pass
        return found
    """,
        head="import os",
    ),
    _attack("a file by open", "return open(path).read()"),
    _attack("a file by pathlib", "return Path(path).read_text()", head="from pathlib import Path"),
    _attack("a file by climbing", "return open('../../../../../../../..' + path).read()"),
    _attack(
        "a file by a descriptor",
        """
        found = []
        for number in range(20):
            try:
                found.append(open('/proc/self/fd/' + str(number)).read(100))
            except Exception:
                pass
        return found
    """,
    ),
    _attack("all files", "return [str(one) for one in Path('/').rglob('*.py')][:100]", head="from pathlib import Path"),
    _attack("a file for writing", "open(path, 'w').write('owned')"),
    _attack("removing a file", "os.remove(path)", head="import os"),
    _attack("the modules of the server", "return str(sys.modules)", head="import sys"),
    _attack("a module of the server", "return hostile.CANARY", head="import tests.sandbox.hostile as hostile"),
    _attack("subclasses", "return [str(one) for one in ().__class__.__base__.__subclasses__()]"),
    _attack("globals of a function", "return str(echo.__globals__) + str(attack.__globals__)"),
    _attack("globals by a format string", "return '{0.__globals__}{0.__class__.__init__}'.format(echo)"),
    _attack("closures of a host function", "return [one.cell_contents for one in echo.__closure__]"),
    _attack(
        "frames of an exception of the host",
        """
        try:
            fail()
        except BaseException as error:
            found, frame = [str(error), repr(error)], error.__traceback__
            while frame:
                found.append(str(frame.tb_frame.f_locals) + str(frame.tb_frame.f_back))
                frame = frame.tb_next
            return found
    """,
    ),
    _attack(
        "causes of an exception of the host",
        """
        try:
            fail()
        except BaseException as error:
            return [str(error.__cause__), str(error.__context__), str(error.args)]
    """,
    ),
    _attack("builtins", "return str(__builtins__) + str(globals()) + str(vars())"),
    _attack("memory by ctypes", "return ctypes.string_at(id(path), 10 ** 6)", head="import ctypes"),
    _attack("the garbage collector", "return [str(one) for one in gc.get_objects()]", head="import gc"),
]

_SYSTEM = [
    _attack("a socket", "return socket.create_connection(('127.0.0.1', 80), 1)", head="import socket"),
    _attack("a request", "return urlopen('http://127.0.0.1').read()", head="from urllib.request import urlopen"),
    _attack("a name server", "return socket.getaddrinfo('example.com', 80)", head="import socket"),
    _attack("a shell", "return os.system('id; env')", head="import os"),
    _attack("a process", "return subprocess.check_output(['env'])", head="import subprocess"),
    _attack("a fork bomb", "while True: os.fork()", head="import os"),
    _attack(
        "threads without end",
        """
        while True: threading.Thread(target=attack, args=(path,)).start()
    """,
        head="import threading",
    ),
    _attack(
        "tasks without end",
        """
        async def again(): return await asyncio.gather(again(), again())
        return await again()
    """,
        head="import asyncio",
        is_async=True,
    ),
    _attack("killing the parent", "os.kill(os.getppid(), 9)", head="import os"),
    _attack(
        "ignoring signals",
        """
        for number in range(1, 32):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True: pass
    """,
        head="import signal",
    ),
    _attack("ending the process", "sys.exit(3)", head="import sys"),
    _attack("ending the process at once", "os._exit(0)", head="import os"),
    _attack("crashing by ctypes", "ctypes.string_at(0)", head="import ctypes"),
    _attack("SystemExit", "raise SystemExit(4)"),
    _attack("KeyboardInterrupt", "raise KeyboardInterrupt"),
    _attack(
        "an exception whose text fails",
        """
        raise Odd()
    """,
        head="class Odd(BaseException):\n    def __str__(self): return self.nothing",
    ),
    _attack(
        "a value whose text never ends",
        "return Odd()",
        head="""
        class Odd:
            def __str__(self):
                while True: pass
            __repr__ = __str__
    """,
    ),
    _attack(
        "other builtins",
        """
        return [json.dumps([1]), len([1]), str(1)]
    """,
        head="""
        import json
        import builtins
        builtins.len = builtins.str = builtins.isinstance = lambda *given: 7
        json.dumps = json.loads = lambda *given: 7
    """,
    ),
    _attack(
        "shadowed names",
        "return 1",
        head="""
        type = str = len = print = dict = list = isinstance = json = asyncio = None
        __innkeeper_value = __innkeeper_type = __innkeeper_arguments = None
    """,
    ),
    _attack("compile and exec", "exec(compile('while True: pass', 'x', 'exec'))"),
    _attack("eval of an import", "return eval('__import__(\"os\").environ')"),
    _attack(
        "a decorator that runs at once",
        "return 1",
        "cpu_seconds",
        head="""
        def forever(function):
            while True: pass
        @forever
        def decorated(): ...
    """,
    ),
    _attack(
        "a default that runs at once", "return 1", head="def other(value=open('/etc/passwd').read()): return value"
    ),
    _attack(
        "a generator without end",
        "return list(numbers())",
        head="""
        def numbers():
            while True: yield 'x' * 1000
    """,
    ),
    _attack("a comprehension without end", "return [1 for one in iter(int, 1)]"),
]

_HOSTS = [
    _attack("a host function without end", "while True: echo(1)", "calls"),
    _attack("an awaited host function without end", "while True: await echo(1)", "calls", is_async=True),
    _attack(
        "a thousand host functions at a time",
        """
        return await asyncio.gather(*[echo(1) for _ in range(100000)])
    """,
        "calls",
        head="import asyncio",
        is_async=True,
    ),
    _attack("ten megabytes for a host function", "return echo('x' * 10 ** 7)", "output"),
    _attack(
        "a list of lists of lists for a host function",
        """
        items = [0] * 1000
        for _ in range(5): items = [items] * 1000
        return echo(items)
    """,
        "output",
    ),
    _attack(
        "depth for a host function",
        """
        deep = []
        for _ in range(100000): deep = [deep]
        return echo(deep)
    """,
    ),
    _attack(
        "a circle for a host function",
        """
        circle = {}
        circle['a'] = circle
        return echo(circle)
    """,
    ),
    _attack("wrong arguments for a host function", "return echo(1, 2, 3, other=4, __self__=5)"),
    _attack("functions for a host function", "return echo([attack, print, echo])"),
    _attack("a name that the host lacks", "return secret() + __import__('os')"),
    _attack("changing a host function", "echo.__code__ = attack.__code__\nreturn echo(1)"),
]

ATTACKS = [*_FOREVER, *_DEEP, *_MEMORY, *_OUTPUT, *_SECRETS, *_SYSTEM, *_HOSTS]

UNPARSABLE = {
    "nothing": "",
    "half a function": "def attack(path:",
    "a null character": "def attack(path):\n    return '\0'",
    "half a surrogate pair": "def attack(path):\n    return '\ud800'",
    "a megabyte": "def attack(path): ...\n" + "#" * 1024 * 1024,
    "open brackets": "(" * 100_000,
    "brackets": "(" * 50_000 + ")" * 50_000,
    "open braces and brackets": "{[(" * 50_000,
    "signs": "-" * 200_000 + "1",
    "negations": "not " * 50_000 + "1",
    "a sum": "1" + "+1" * 100_000,
    "attributes": "a" + ".a" * 100_000,
    "calls": "a" + "()" * 100_000,
    "functions in functions": "lambda:" * 30_000 + "1",
    "choices": "1 if 1 else " * 20_000 + "1",
    "powers": "1" + "**1" * 60_000,
    "elif": "if 1: 1\n" + "elif 1: 1\n" * 20_000,
    "a dotted import": "import a" + ".a" * 100_000,
    "fields": 'f"' + "{a}" * 80_000 + '"',
    "digits": "1" * 200_000,
    "indentation": "\n".join(" " * depth + "if 1:" for depth in range(400)),
    "tabs and blanks": "if 1:\n\tif 1:\n        1",
    "quotes that never end": "'''\\" * 60_000,
}
"""What no sandbox may accept, and no parser may be hurt by."""
