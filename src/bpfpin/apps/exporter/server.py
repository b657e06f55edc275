"""The exporter's processes: the privileged helper, and the one that answers HTTP requests.

`bpfpin serve` binds the port, forks and becomes the helper. Its child gives up all privileges
before it reads the first byte of the network. Both may also run as services of their own, with a
Unix socket between them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pwd
import resource
import signal
import socket
import socketserver
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bpfpin.apps.exporter.channel import ChannelClosedError
from bpfpin.apps.exporter.metrics import CONTENT_TYPE
from bpfpin.apps.exporter.rules import MetricRule
from bpfpin.apps.exporter.scrape import Scraper
from bpfpin.errors import BpfError, BusyError, PermissionDeniedError, UsageError
from bpfpin.hints import Argument, Fix
from bpfpin.records import dataclass
from bpfpin.syscall import bpf, confine
from bpfpin.uapi import Cmd

if TYPE_CHECKING:
    from bpfpin.apps.exporter.helper import Helper

# All of 9100 to 9999, which Prometheus' list of default ports is about, are taken.
PORT: Final = 19435
HOST: Final = "127.0.0.1"
USER: Final = "nobody"
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_REQUESTS_MAX: Final = 16  # at once
_REQUEST_S: Final = 10.0
_LINE_MAX: Final = 8192
_HEADERS_MAX: Final = 100
# All that a scrape does by its descriptors.
_COMMANDS: Final = (
    Cmd.MAP_LOOKUP_ELEM,
    Cmd.MAP_LOOKUP_BATCH,
    Cmd.MAP_GET_NEXT_KEY,
    Cmd.OBJ_GET_INFO_BY_FD,
    Cmd.ITER_CREATE,
)
# What a scrape may import first when it meets a new type of map. It has to be loaded while the
# process may read the files: they may belong to root alone.
_LAZY: Final = (
    "bpfpin.codecs.number",
    "bpfpin.codecs.prefix",
    "bpfpin.codecs.record",
    "bpfpin.codecs.stray",
    "bpfpin.codecs.variable",
    "bpfpin.objects.maps.batch",
)
PAGE: Final = (
    "<!doctype html><title>bpfpin</title><p>bpfpin: eBPF maps and programs of this host."
    ' <a href="/metrics">/metrics</a>\n'
)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How the exporter runs.

    Attributes:
        pin_root: Where the pin sets are.
        host: The address to listen on.
        port: The port; 0 for any.
        user: The user that the scraped process becomes, if it starts as root.
        rules: What is exported besides.
        with_statistics: Whether the kernel's statistics of programs are on while it is scraped.
    """

    pin_root: Path
    host: str = HOST
    port: int = PORT
    user: str = USER
    rules: Sequence[MetricRule] = ()
    with_statistics: bool = True


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, `[IPV6]:PORT`, `:PORT`, or of a host or port alone.

    `UsageError` if it is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = ("", text) if text.isascii() and text.isdigit() else (text, str(PORT))
    elif text.endswith("]"):
        host, port = text, str(PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(
            f"{text!r} is not HOST:PORT",
            hint=Fix.of("for IPv6: ", Argument("listen", f"[{text}]:{PORT}")),
        )
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(
            f"{text!r} is not HOST:PORT",
            hint=Fix.of("for example: ", Argument("listen", f"{HOST}:{PORT}")),
        )
    return host or HOST, int(port)


def run(options: ServeOptions, started: Callable[[str], None]) -> int:
    """Serve until a signal; *started* gets the address in words. Return the exit status.

    The status is 1 if the process that is scraped ended by itself.
    """
    require_rights()
    _user(options.user)  # fails now, not in the child
    listener = inherited(socket.AF_INET, socket.AF_INET6) or listen(options.host, options.port)
    ours, theirs = socket.socketpair()
    with listener, ours:
        child = os.fork()
        if not child:
            ours.close()
            _be_scraped(listener, theirs, options)
        theirs.close()
        address = shown_address(listener)
        listener.close()
        with _ending(child):
            helper = _helper(options)
            with contextlib.closing(helper):
                started(address)
                notify("READY=1")
                helper.serve(ours)
    return 1


def run_helper(options: ServeOptions, path: Path | None, started: Callable[[str], None]) -> int:
    """Hand descriptors over at a Unix socket, to one process after the other, until a signal."""
    require_rights()
    listener = inherited(socket.AF_UNIX) or _listen_at(path)
    helper = _helper(options)
    with listener, contextlib.closing(helper):
        started(str(listener.getsockname()))
        notify("READY=1")
        while True:
            connection, _ = listener.accept()
            with connection:
                helper.serve(connection)


def run_scraped(options: ServeOptions, path: Path, started: Callable[[str], None]) -> int:
    """Answer HTTP requests with the descriptors of a helper at a Unix socket, until a signal."""
    listener = inherited(socket.AF_INET, socket.AF_INET6) or listen(options.host, options.port)
    connect(path).close()  # fails now, not at the first scrape
    confine.refuse_new_privileges()
    confine.allow_bpf(_COMMANDS)
    with listener, Server(listener, lambda: Scraper(connect(path), options.rules)) as server:
        started(shown_address(listener))
        notify("READY=1")
        server.serve_forever()
    return 0


def require_rights() -> None:
    """Raise `PermissionDeniedError` unless this user may open maps by id."""
    try:
        bpf.map_get_next_id(0)
    except PermissionDeniedError as error:
        error.hint = error.hint or "only the helper needs rights; scrapes are served without any"
        raise


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; `BusyError` if the port is in use."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BusyError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            hint=f"see who listens there: ss -ltnp 'sport = :{port}'; to take another port:"
            f" bpfpin serve --listen {host}:{port + 1}",
        ) from None
    return listener


def _listen_at(path: Path | None) -> socket.socket:
    if path is None:
        raise UsageError("no socket: give --open-fds PATH, or start it by socket activation")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # What a process that is gone has left; a socket in use would answer.
        if path.is_socket() and not _answers(path):
            path.unlink()
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise BusyError(f"cannot listen at {path}: {error.strerror}") from None
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def connect(path: Path) -> socket.socket:
    """Connect to the helper at a Unix socket; `OSError` if nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_REQUEST_S)
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        error.filename = str(path)
        raise
    return connection


def inherited(*families: socket.AddressFamily) -> socket.socket | None:
    """Return the socket of one of these families that systemd passed; None without one.

    The protocol is that of sd_listen_fds(3).
    """
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return None
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            continue
        os.set_inheritable(fd, False)
        passed = socket.socket(fileno=fd)
        if passed.family in families:
            return passed
        passed.detach()
    return None


def notify(text: str) -> None:
    """Tell systemd the state of this service (sd_notify(3)); nothing without systemd."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
        ):
            # An abstract name begins with a zero byte, which is written as @.
            channel.sendto(text.encode(), path.replace("@", "\0", 1) if path[0] == "@" else path)


def shown_address(listener: socket.socket) -> str:
    """Return the URL of a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


def _helper(options: ServeOptions) -> Helper:
    from bpfpin.apps.exporter.helper import Helper  # noqa: PLC0415 - not in the scraped process

    _raise_limit()
    return Helper(options.pin_root, options.rules, with_statistics=options.with_statistics)


def _raise_limit() -> None:
    """Allow as many open files as the hard limit does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _ending(child: int) -> Iterator[None]:
    """End the child after the block."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def _be_scraped(listener: socket.socket, connection: socket.socket, options: ServeOptions) -> None:
    """Become the process that is scraped; never returns."""
    status = 1
    try:
        # The handlers of the command would write a message for the user.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for module in _LAZY:
            importlib.import_module(module)
        _raise_limit()
        scraper = Scraper(connection, options.rules)
        # The first scrape imports what scrapes need.
        scraper.scrape()
        drop_privileges(options.user)
        confine.end_with_parent(signal.SIGTERM)
        with Server(listener, lambda: scraper, is_lasting=False) as server:
            server.serve_forever()
        status = 0
    except BaseException as error:
        if not isinstance(error, ChannelClosedError):
            os.write(2, f"bpfpin: the process that is scraped ended: {error}\n".encode())
    finally:
        os._exit(status)


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"there is no user {name!r}") from None


def drop_privileges(user: str) -> None:
    """Become an ordinary user for good, without capabilities, who may only read by descriptors."""
    if os.geteuid() == 0:
        entry = _user(user)
        os.setgroups([])
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    confine.refuse_new_privileges()
    confine.allow_bpf(_COMMANDS)


class Server(socketserver.ThreadingTCPServer):
    """A small HTTP server for /metrics.

    Not by `http.server`, whose modules take more memory than all the rest of a scrape.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listener: socket.socket,
        make_scraper: Callable[[], Scraper],
        *,
        is_lasting: bool = True,
    ) -> None:
        """Serve on a socket that listens.

        Args:
            listener: The socket.
            make_scraper: Connects to the helper.
            is_lasting: Whether it goes on without the helper, and connects again.
        """
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._make_scraper = make_scraper
        self._is_lasting = is_lasting
        self._scraper: Scraper | None = None
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(_REQUESTS_MAX)

    def metrics(self) -> str:
        """Return the metrics; one scrape at a time.

        Raises:
            BpfError: The helper does not answer.
        """
        with self._lock:
            scraper = self._scraper = self._scraper or self._make_scraper()
            try:
                return scraper.scrape()
            except BaseException:
                # The rest of an answer may be in the socket: the next scrape needs a new one.
                scraper.close()
                self._scraper = None
                if not self._is_lasting:
                    os._exit(1)
                raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; refuse when too many requests are being answered."""
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(_answer(503, "too many requests at once\n"))
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log clients that went away."""


class Handler(socketserver.StreamRequestHandler):
    """One request."""

    timeout = _REQUEST_S
    server: Server

    def handle(self) -> None:
        """Read the request and answer it."""
        words = self.rfile.readline(_LINE_MAX).split()
        for _ in range(_HEADERS_MAX):
            if self.rfile.readline(_LINE_MAX).strip() == b"":
                break
        self.wfile.write(self._answered(words))

    def _answered(self, words: list[bytes]) -> bytes:
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _answer(400, "not a request of HTTP/1.1\n")
        method, path = words[0], words[1].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _answer(405, "only GET and HEAD\n")
        has_body = method == b"GET"
        if path == b"/":
            return _answer(200, PAGE, kind="text/html; charset=utf-8", has_body=has_body)
        if path != b"/metrics":
            return _answer(404, "the metrics are at /metrics\n", has_body=has_body)
        try:
            return _answer(200, self.server.metrics(), kind=CONTENT_TYPE, has_body=has_body)
        except (BpfError, OSError) as error:
            return _answer(503, f"{error}\n", has_body=has_body)


_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


def _answer(
    status: int, body: str, *, kind: str = "text/plain; charset=utf-8", has_body: bool = True
) -> bytes:
    data = body.encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (data if has_body else b"")
