"""bpfpin: eBPF maps that outlive a program and are shared between programs.

    read_object(path)        objfile   a compiled object as an ObjectSpec; no privilege, no kernel
    load(spec)               objects   its maps and programs in the kernel, held by this process
    Map, Program, Link       objects   one thing of the kernel each; `with` ends it
    maps(), programs(), …    objects   what the kernel reports of all of them
    attach_xdp(program, …)   attach    a program at a hook; closing the Link detaches
    deploy(path, device=…)   apps      load, attach and pin as one set that outlives the process
    deploy_all(path, …)      apps      the same on several devices or cgroups: on all, or on none
    undeploy(device)         apps      detach and unpin it
    follow(path)             apps      the map under a name, through reloads
    errors                             every exception, with its tree

Layers import downwards only; the command is `bpfpin.cli`, and nothing here needs it.
"""

import sys as _sys

# `python -m bpfpin` puts the current directory first on the path, also for root and in /tmp: what
# anybody left there under the name of a module must not be imported. (Python shows "-m" as long as
# it looks for the module to run; `python -P` leaves the directory out by itself.)
if _sys.argv[:1] == ["-m"] and not _sys.flags.safe_path:
    del _sys.path[:1]

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from bpfpin.attach.cgroup import attach_cgroup
    from bpfpin.attach.clsact import ClsactFilter, attach_clsact
    from bpfpin.attach.netkit import attach_netkit
    from bpfpin.attach.order import Order
    from bpfpin.attach.tcx import attach_tcx
    from bpfpin.attach.xdp import attach_xdp
    from bpfpin.codecs.formats import AUTO, Format, Nanoseconds
    from bpfpin.errors import (
        AttachError,
        BpfError,
        BusyError,
        CgroupNotFoundError,
        Difference,
        EmptyMapError,
        HookBusyError,
        IdNotFoundError,
        IncompatibleMapError,
        InterfaceNotFoundError,
        KeyExistsError,
        KeyNotFoundError,
        LimitError,
        LockTimeoutError,
        MapFullError,
        MissingExtraError,
        NamespaceNotFoundError,
        NotBpffsError,
        NotSupportedError,
        ObjectFileError,
        ObjectLimitError,
        ObjectNotFoundError,
        PermissionDeniedError,
        PinError,
        PinExistsError,
        PinKindError,
        PinNameError,
        PinNotFoundError,
        PrivateMountError,
        ProgramChangedError,
        ReadOnlyMapError,
        SyscallError,
        UnsafePathError,
        UsageError,
        ValueDiffersError,
        VerifierError,
        WrongHookError,
    )
    from bpfpin.map.follow import Follower, follow
    from bpfpin.map.snapshot import restore_map, save_map
    from bpfpin.migration.request import Migration, Rule
    from bpfpin.objects.events.perf_buffer import PerfBuffer
    from bpfpin.objects.events.perf_ring import Lost
    from bpfpin.objects.events.ring_buffer import RingBuffer
    from bpfpin.objects.events.user_ring_buffer import UserRingBuffer
    from bpfpin.objects.kernel.info import LinkInfo, MapInfo, ProgramInfo, links, maps, programs
    from bpfpin.objects.link import Link
    from bpfpin.objects.load.collection import Loaded, load
    from bpfpin.objects.maps.map import Map
    from bpfpin.objects.maps.mapped import MappedArray
    from bpfpin.objects.maps.queue import BloomFilter, Queue
    from bpfpin.objects.maps.variables import Variable
    from bpfpin.objects.maps.watch import Change, Reload
    from bpfpin.objects.programs.program import Program
    from bpfpin.objfile.reader import read_object
    from bpfpin.sets.load.deploy import Deployment, deploy, deploy_all
    from bpfpin.sets.undeploy import undeploy
    from bpfpin.spec import Hook, MapSpec, ObjectSpec, ProgramSpec, XdpMode
    from bpfpin.uapi import AttachType, MapFlag, MapType, ProgramType, UpdateFlag, XdpAction
    from bpfpin.version import __version__

# Where each name is, so that `import bpfpin` costs nothing before it is used (PEP 562).
_HOMES = {
    "attach.cgroup": "attach_cgroup",
    "attach.clsact": "ClsactFilter attach_clsact",
    "attach.netkit": "attach_netkit",
    "attach.order": "Order",
    "attach.tcx": "attach_tcx",
    "attach.xdp": "attach_xdp",
    "codecs.formats": "AUTO Format Nanoseconds",
    "map.follow": "Follower follow",
    "map.snapshot": "restore_map save_map",
    "migration.request": "Migration Rule",
    "objects.events.perf_buffer": "PerfBuffer",
    "objects.events.perf_ring": "Lost",
    "objects.events.ring_buffer": "RingBuffer",
    "objects.events.user_ring_buffer": "UserRingBuffer",
    "objects.kernel.info": "LinkInfo MapInfo ProgramInfo links maps programs",
    "objects.link": "Link",
    "objects.load.collection": "Loaded load",
    "objects.maps.map": "Map",
    "objects.maps.mapped": "MappedArray",
    "objects.maps.queue": "BloomFilter Queue",
    "objects.maps.variables": "Variable",
    "objects.maps.watch": "Change Reload",
    "objects.programs.program": "Program",
    "objfile.reader": "read_object",
    "sets.load.deploy": "Deployment deploy deploy_all",
    "sets.undeploy": "undeploy",
    "spec": "Hook MapSpec ObjectSpec ProgramSpec XdpMode",
    "uapi": "AttachType MapFlag MapType ProgramType UpdateFlag XdpAction",
    "version": "__version__",
}
_MODULES = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "AUTO", "AttachError", "AttachType", "BloomFilter", "BpfError", "BusyError",
    "CgroupNotFoundError", "Change", "ClsactFilter", "Deployment", "Difference",
    "EmptyMapError", "Follower", "Format", "Hook", "HookBusyError", "IdNotFoundError",
    "IncompatibleMapError", "InterfaceNotFoundError", "KeyExistsError", "KeyNotFoundError",
    "LimitError", "Link", "LinkInfo", "Loaded", "LockTimeoutError", "Lost", "Map", "MapFlag",
    "MapFullError", "MapInfo", "MapSpec", "MapType", "MappedArray", "Migration",
    "MissingExtraError", "NamespaceNotFoundError", "Nanoseconds", "NotBpffsError",
    "NotSupportedError",
    "ObjectFileError", "ObjectLimitError", "ObjectNotFoundError", "ObjectSpec", "Order",
    "PerfBuffer", "PermissionDeniedError", "PinError", "PinExistsError", "PinKindError",
    "PinNameError", "PinNotFoundError", "PrivateMountError", "Program", "ProgramChangedError",
    "ProgramInfo", "ProgramSpec", "ProgramType", "Queue", "ReadOnlyMapError", "Reload",
    "RingBuffer", "Rule", "SyscallError", "UnsafePathError", "UpdateFlag", "UsageError",
    "UserRingBuffer", "ValueDiffersError", "Variable", "VerifierError", "WrongHookError",
    "XdpAction", "XdpMode", "__version__", "attach_cgroup", "attach_clsact", "attach_netkit",
    "attach_tcx", "attach_xdp", "deploy", "deploy_all", "follow", "links", "load", "maps",
    "programs", "read_object", "restore_map", "save_map", "undeploy",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'bpfpin' has no attribute {name!r}")
    found: object = getattr(
        _importlib.import_module(f"bpfpin.{_MODULES.get(name, 'errors')}"), name
    )
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
