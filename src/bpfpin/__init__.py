"""bpfpin: eBPF maps that outlive a program and are shared between programs.

    read_object(path)        objfile   a compiled object as an ObjectSpec; no privilege, no kernel
    load(spec)               objects   its maps and programs in the kernel, held by this process
    Map, Program, Link       objects   one thing of the kernel each; `with` ends it
    maps(), programs(), …    objects   what the kernel reports of all of them
    attach_xdp(program, …)   attach    a program at a hook; closing the Link detaches
    deploy(path, device=…)   sets      load, attach and pin as one set that outlives the process
    deploy_all(path, …)      sets      the same on several devices or cgroups: on all, or on none
    undeploy(device)         sets      detach and unpin it
    apply(files)             sets      all sets of a host as state files say
    follow(path)             map       the map under a name, through reloads
    errors                             every exception, with its tree

The kinds of BTF types (`Struct`, `Int`, …) are public in `bpfpin.btf.types`: as names of `bpfpin`
they would hide Python's `Enum` and `Union` after a star import.

Layers import downwards only; the command is `bpfpin.cli`, and nothing here needs it.
"""

import sys as _sys

# `python -m bpfpin` puts the current directory first on the path, also for root and in /tmp: what
# anybody left there under the name of a module must not be imported. (Python shows "-m" as long as
# it looks for the module to run; `python -P` leaves the directory out by itself.)
if _sys.argv[:1] == ["-m"] and not _sys.flags.safe_path:
    del _sys.path[:1]

import importlib as _importlib

# The public names, by the module that defines each: with every function, also the types in its
# signature. A name is imported when it is first used, so `import bpfpin` costs nothing (PEP 562).
# `make generate` writes the stub that type checkers read.
_HOMES = {
    "attach.cgroup": "attach_cgroup",
    "attach.clsact": "ClsactFilter FilterPlace attach_clsact",
    "attach.iterators": "IterLink attach_iter",
    "attach.lwt": "LwtRoute RouteTarget attach_lwt",
    "attach.netfilter": "attach_netfilter",
    "attach.freplace": "attach_freplace",
    "attach.kprobe": "attach_kprobe attach_ksyscall",
    "attach.kprobe_multi": "attach_kprobe_multi",
    "attach.netkit": "attach_netkit",
    "attach.network_namespace": "attach_netns",
    "attach.order": "Order",
    "attach.perf_events": "attach_perf_event",
    "attach.raw_tracepoints": "attach_raw_tracepoint",
    "attach.sockets": "SocketProgram attach_reuseport attach_socket_filter",
    "attach.sockmap": "SockmapProgram attach_sockmap",
    "attach.struct_ops": "attach_struct_ops",
    "attach.tcx": "attach_tcx",
    "attach.trace": "attach_trace",
    "attach.tracepoints": "attach_tracepoint",
    "attach.uprobe_multi": "attach_uprobe_multi",
    "attach.uprobes": "attach_uprobe",
    "attach.usdt": "attach_usdt",
    "attach.xdp": "XdpLink attach_xdp",
    "btf.btf": "Btf TypeRef",
    "codecs.codec": "Codec",
    "codecs.formats": "AUTO Format Nanoseconds",
    "codecs.variable": "VariableSpec",
    "errors": (
        "AttachError BpfError BusyError CgroupNotFoundError Difference EmptyMapError ExitCode "
        "HookBusyError IdNotFoundError IncompatibleMapError InterfaceNotFoundError "
        "KeyExistsError KeyNotFoundError LimitError LockTimeoutError MapFullError "
        "MissingExtraError NamespaceNotFoundError NotBpffsError NotSupportedError "
        "ObjectFileError ObjectLimitError ObjectNotFoundError PermissionDeniedError PinError "
        "PinExistsError PinKindError PinNameError PinNotFoundError PrivateMountError "
        "ProgramChangedError ReadOnlyMapError SyscallError TargetNotFoundError UnsafePathError "
        "UsageError ValueDiffersError VerifierError WrongHookError"
    ),
    "externs": "ConfigForm ExternKind ExternSpec",
    "insn": "Instruction",
    "hints": "Argument Fix",
    "map.follow": "FollowedWatch Follower follow",
    "map.snapshot": "Restored Saved restore_map save_map",
    "migration.losses": "MemberLoss",
    "migration.report": "MapDefinition MemberPlace MigratedMember MigrationReport",
    "migration.request": "Migration MigrationRules Rule",
    "objects.events.perf_buffer": "PerfBuffer",
    "objects.events.perf_ring": "Lost",
    "objects.events.ring_buffer": "RingBuffer",
    "objects.events.user_ring_buffer": "UserRingBuffer",
    "objects.kernel.attach_target": "AttachTarget",
    "objects.kernel.btf": "BtfHandle",
    "objects.kernel.info": "LinkInfo MapInfo ProgramInfo links maps programs",
    "objects.link": "HookAttachment Link",
    "loading.attachments": "Attachments",
    "loading.collection": "Loaded load",
    "objects.maps.base": "BaseMap",
    "objects.maps.batch": "RawBatch",
    "objects.maps.contents": "ContentsChange",
    "objects.maps.map": "Map",
    "objects.maps.mapped": "MappedArray MappedMemory",
    "objects.maps.queue": "BloomFilter Queue",
    "objects.maps.variables": "Variable Variables",
    "objects.maps.watch": "Change Pace Reload Watch",
    "objects.programs.program": "Program TestRun",
    "objfile.reader": "read_object",
    "pins.plan": "Decision",
    "sets.apply.apply": "apply",
    "sets.apply.reports": "ApplyReport SetAction SetOutcome StateChange",
    "sets.apply.save": "SavedState save_state",
    "sets.apply.state": "LoadedState StateOfSet loaded_state",
    "sets.deployment": "Deployment",
    "sets.load.deploy": "deploy deploy_all",
    "sets.reports": "HookReport LoadReport LoadResult MapReport ProgramReport UnloadReport",
    "sets.undeploy": "undeploy",
    "spec": (
        "CoreRelocation Dialect FunctionSpec Hook LineInfo MapSpec ObjectSpec Pinning "
        "ProgramSpec Reference ReferenceKind XdpMode"
    ),
    "syscall.fd": "Descriptor",
    "uapi": (
        "AttachFlag AttachType CoreRelocationKind LinkType MapFlag MapType ProgramType "
        "UpdateFlag XdpAction"
    ),
    "version": "__version__",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used; `__all__` is made from the table."""
    value: object
    if name == "__all__":
        value = sorted(" ".join(_HOMES.values()).split())
    else:
        home = next((module for module, names in _HOMES.items() if name in names.split()), None)
        if home is None:
            raise AttributeError(f"module 'bpfpin' has no attribute {name!r}")
        value = getattr(_importlib.import_module(f"bpfpin.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    names: list[str] = __getattr__("__all__")  # type: ignore[assignment]
    return names
