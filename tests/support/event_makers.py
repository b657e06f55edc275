"""Processes that make events as fast as they can, and count them: for reloads under events.

Each prints "started" when it begins, and the number of its rounds after SIGTERM. What happens in a
round is the source of its function `event`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It ends with the process that started it (PR_SET_PDEATHSIG of prctl(2)).
BEGIN = """
import ctypes, os, signal, socket, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
"""
# Whether it is over is asked once in so many rounds.
LOOP = """
made = 0
print("started", flush=True)
while not stop:
    for _ in range(100):
        event()
    made += 100
print(made)
"""

SYSTEM_CALL = """
def event():
    os.sched_getparam(0)
"""

# The words are the devices that one packet each leaves by. The length of the data tells them from
# packets of others.
FRAMES = """
PORT, DATA = 9999, bytes(77)
def frame(to):
    addresses = socket.inet_aton("10.78.1.9") + socket.inet_aton("10.79.0.1")
    total = 28 + len(DATA)
    head = bytes([0x45, 0]) + total.to_bytes(2, "big") + bytes([0, 0, 0, 0, 64, 17])
    words = head + addresses
    sum_ = sum(int.from_bytes(words[at:at + 2], "big") for at in range(0, len(words), 2))
    while sum_ >> 16:
        sum_ = (sum_ & 0xffff) + (sum_ >> 16)
    head += (0xffff - sum_).to_bytes(2, "big") + addresses
    ports = (40000).to_bytes(2, "big") + PORT.to_bytes(2, "big")
    udp = ports + (8 + len(DATA)).to_bytes(2, "big") + bytes(2)
    return bytes.fromhex(to) + bytes.fromhex("020000000009") + b"\\x08\\x00" + head + udp + DATA

def packet_socket(device, protocol=0):
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    made.bind((device, protocol))
    return made
"""
FORWARDED = f"""{FRAMES}
sender, receiver = packet_socket(sys.argv[1]), packet_socket(sys.argv[2], 0x0800)
wanted = frame("020000000001")
def event():
    # One packet at a time: none is dropped for want of room.
    sender.send(wanted)
    while not receiver.recv(2048).endswith(wanted[34:]):
        pass
"""
TWO_ENDS = f"""{FRAMES}
senders = [packet_socket(device) for device in sys.argv[1:]]
wanted = frame("020000000001")
def event():
    for sender in senders:
        sender.send(wanted)
"""

# What processes of a cgroup do that its programs decide about. The word is the cgroup.
IN_CGROUP = """
DATA = bytes(77)
sysctl = os.open("/proc/sys/kernel/ostype", os.O_RDONLY)
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))

def datagrams(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as near:
        near.bind(address)
        name = near.getsockname()
        near.sendto(DATA, name)
        near.recvfrom(100)
        near.connect(name)
        near.getpeername()

def refused():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 0)
        near.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
        near.connect_ex(("127.0.0.1", 9))  # where nobody listens

def event():
    datagrams(socket.AF_INET, ("127.0.0.1", 0))
    datagrams(socket.AF_INET6, ("::1", 0))
    datagrams(socket.AF_UNIX, f"\\0bpfpin-{os.getpid()}")
    refused()
    os.pread(sysctl, 16, 0)
    os.close(os.open("/dev/null", os.O_RDONLY))
"""

BINDS_IN_CGROUP = """
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))

def event():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
"""

# Two ends of a connection in a map of sockets. Each message is received before the next is sent,
# so that no two become one. The words are the pin of the map and the ends that are in it.
MESSAGES = """
from bpfpin import Map
with socket.create_server(("127.0.0.1", 0)) as listener:
    near = socket.create_connection(listener.getsockname())
    far = listener.accept()[0]
with Map.from_pin(sys.argv[1]) as sockets:
    for key, end in enumerate(sys.argv[2:]):
        sockets[key] = {"near": near, "far": far}[end].fileno()

def event():
    near.sendall(b"message")
    far.recv(64)
"""

# A connection takes the algorithm of the set, and another one again.
CONGESTION = """
with socket.create_server(("127.0.0.1", 0)) as listener:
    near = socket.create_connection(listener.getsockname())
    far = listener.accept()[0]

def event():
    for name in (b"bpfpin_kept", b"reno"):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
"""

# The word is the pin of an iterator's link. While sets change places it may be gone for a moment.
READER = """
def event():
    while True:
        try:
            pin = os.open(sys.argv[1], os.O_RDONLY)
        except FileNotFoundError:
            continue
        break
    while os.read(pin, 65536):
        pass
    os.close(pin)
"""


@contextmanager
def making(event: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Run a process whose function `event` is in the source *event*, until the end of the block."""
    command = [sys.executable, "-c", f"{BEGIN}{event}{LOOP}", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        try:
            yield process
        finally:
            process.kill()
