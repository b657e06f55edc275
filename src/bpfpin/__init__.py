"""bpfpin: eBPF maps that outlive a program and are shared between programs.

    read_object(path)        objfile   a compiled object as an ObjectSpec; no privilege, no kernel
    load(spec)               objects   its maps and programs in the kernel, held by this process
    Map, Program, Link       objects   one thing of the kernel each; `with` ends it
    maps(), programs(), …    objects   what the kernel reports of all of them
    attach_xdp(program, …)   attach    a program at a hook; closing the Link detaches
    deploy(path, device=…)   sets      load, attach and pin as one set that outlives the process
    deploy_all(path, …)      sets      the same on several devices or cgroups: on all, or on none
    undeploy(device)         sets      detach and unpin it
    follow(path)             map       the map under a name, through reloads
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

# The public names, by the module that defines each. A name is imported when it is first used, so
# `import bpfpin` costs nothing (PEP 562). `make generate` writes the stub that type checkers read.
_HOMES = {
    "attach.cgroup": "attach_cgroup",
    "attach.clsact": "ClsactFilter attach_clsact",
    "attach.netkit": "attach_netkit",
    "attach.order": "Order",
    "attach.tcx": "attach_tcx",
    "attach.xdp": "attach_xdp",
    "codecs.formats": "AUTO Format Nanoseconds",
    "errors": (
        "Argument AttachError BpfError BusyError CgroupNotFoundError Difference EmptyMapError Fix "
        "HookBusyError IdNotFoundError IncompatibleMapError InterfaceNotFoundError KeyExistsError "
        "KeyNotFoundError LimitError LockTimeoutError MapFullError MissingExtraError "
        "NamespaceNotFoundError NotBpffsError NotSupportedError ObjectFileError ObjectLimitError "
        "ObjectNotFoundError PermissionDeniedError PinError PinExistsError PinKindError "
        "PinNameError PinNotFoundError PrivateMountError ProgramChangedError ReadOnlyMapError "
        "SyscallError UnsafePathError UsageError ValueDiffersError VerifierError WrongHookError"
    ),
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
    "objects.maps.base": "BaseMap",
    "objects.maps.batch": "RawBatch",
    "objects.maps.map": "Map",
    "objects.maps.mapped": "MappedArray",
    "objects.maps.queue": "BloomFilter Queue",
    "objects.maps.variables": "Variable Variables",
    "objects.maps.watch": "Change Reload Watch",
    "objects.programs.program": "Program",
    "objfile.reader": "read_object",
    "sets.deployment": "Deployment",
    "sets.load.deploy": "deploy deploy_all",
    "sets.undeploy": "undeploy",
    "spec": "Hook MapSpec ObjectSpec ProgramSpec XdpMode",
    "uapi": "AttachType MapFlag MapType ProgramType UpdateFlag XdpAction",
    "version": "__version__",
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_MODULES)  # noqa: PLE0605  (written once, in the table)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'bpfpin' has no attribute {name!r}")
    value: object = getattr(_importlib.import_module(f"bpfpin.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
