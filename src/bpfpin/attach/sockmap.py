"""Maps of sockets: programs that see the data of all sockets in a map.

Since Linux 6.10 a link holds such a program, before that the map itself.
"""

from __future__ import annotations

from bpfpin.attach.order import require_type
from bpfpin.attach.query import sockmap_program
from bpfpin.attach.registry import (
    AttachOptions,
    HookCode,
    HookTarget,
    NewAttachment,
    RememberedHook,
)
from bpfpin.choices import choice_of
from bpfpin.errors import (
    AttachError,
    HookBusyError,
    IdNotFoundError,
    ProgramChangedError,
    UsageError,
    WrongHookError,
)
from bpfpin.hooks import HeldBy, Hook, hooks_with_code
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.btf import has_enumerator
from bpfpin.objects.kernel.info import links
from bpfpin.objects.link import Link, LinklessAttachment
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import bpf
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import LinkType


class SockmapProgram(LinklessAttachment):
    """A program that a map of sockets runs, held by the map itself.

    It stays when the process ends, until the map is gone: `close` does nothing, `detach` or the
    end of `with` removes it.
    """

    def __init__(self, map_id: int, hook: Hook) -> None:
        """Open the attachment at *hook* of the map *map_id*."""
        assert hook.attach_type is not None
        self._map_id = map_id
        self._attach_type = hook.attach_type

    def program_id(self) -> int:
        """Return the id of the program that the map runs now, 0 for none.

        Raises:
            AttachError: The map is gone.

        Kernel: BPF_PROG_QUERY (for such maps Linux 5.17).
        """
        with self._map() as bpf_map:
            return sockmap_program(bpf_map.fd, self._attach_type)

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Run another program for all sockets that are added from now on.

        Sockets that are in the map keep the program that they were added with.

        Args:
            program: The program to run, of the same type.
            expected_old: The program that has to run now; None for any.

        Raises:
            ProgramChangedError: Another program than *expected_old* runs.
            AttachError: The map is gone.

        Kernel: BPF_PROG_ATTACH, which does not compare: the program is read before.
        """
        with self._map() as bpf_map:
            running = sockmap_program(bpf_map.fd, self._attach_type)
            if expected_old is not None and running != expected_old.id:
                raise ProgramChangedError(
                    f"{self._place} runs program id {running}, not id {expected_old.id}",
                    holder=f"program id {running}",
                )
            bpf.prog_attach(program.fd, bpf_map.fd, self._attach_type, target=self._place)

    def detach(self) -> None:
        """Detach the program that runs now. Does nothing if there is none, or no map any more.

        Raises:
            ProgramChangedError: Somebody else attached another program at this moment.

        Kernel: BPF_PROG_DETACH, which detaches a certain program only.
        """
        try:
            opened = self._map()
        except AttachError:
            return
        with opened as bpf_map:
            if running := sockmap_program(bpf_map.fd, self._attach_type):
                with Program.from_id(running) as program:
                    target = self._place
                    bpf.prog_detach(program.fd, bpf_map.fd, self._attach_type, target=target)

    @property
    def _place(self) -> str:
        return f"{self._attach_type.name.lower()} of map id {self._map_id}"

    def _map(self) -> Map:
        try:
            return Map.from_id(self._map_id)
        except IdNotFoundError:
            raise AttachError(f"map id {self._map_id} is gone") from None


def attach_sockmap(
    program: Program, bpf_map: BaseMap, hook: Hook | str | None = None
) -> Link | SockmapProgram:
    """Attach *program* to a map of sockets; it sees the data of sockets that are added from now on.

    Args:
        program: A program of type SK_SKB or SK_MSG.
        bpf_map: A map of type SOCKMAP or SOCKHASH.
        hook: `Hook.SK_SKB_STREAM_PARSER`, `Hook.SK_SKB_STREAM_VERDICT`, `Hook.SK_SKB_VERDICT` or
            `Hook.SK_MSG_VERDICT`, or its word. Default: `SK_MSG_VERDICT` for programs of type
            SK_MSG, else `SK_SKB_VERDICT`.

    Returns:
        The link; closing it detaches the program, unless it is pinned. On kernels without such
        links, the attachment, which lasts until it is detached or the map is gone.

    Raises:
        HookBusyError: The map has a program there already.
        WrongHookError: The program is of another type, or the hook is not of a map.
        UsageError: *bpf_map* is of another type.
        PermissionDeniedError: CAP_NET_ADMIN or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE (for such maps Linux 6.10), else BPF_PROG_ATTACH (Linux 4.14).
    """
    if hook is None:
        own = hooks_with_code("sockmap")
        fitting = [each for each in own if program.type in each.traits.program_types]
        hook = fitting[-1] if fitting else Hook.SK_SKB_VERDICT
    hook = choice_of(Hook, hook, what="hook")
    if hook.traits.code != "sockmap":
        raise WrongHookError(f"a map of sockets has no hook {hook.value}")
    require_type(program, hook)
    _require_sockets(bpf_map)
    if link := _link(program, bpf_map, hook):
        return link
    attachment = SockmapProgram(bpf_map.id, hook)
    _attach_without_link(program, bpf_map, hook)
    return attachment


def _require_sockets(bpf_map: BaseMap) -> None:
    if not traits_of(bpf_map.type).is_sockmap:
        kind = getattr(bpf_map.type, "name", str(bpf_map.type)).lower()
        raise UsageError(
            f"map {bpf_map.name} is of type {kind}, and such programs need a sockmap or sockhash"
        )


def _link(program: Program, bpf_map: BaseMap, hook: Hook) -> Link | None:
    """Attach by a link; None if the kernel has no links for maps of sockets."""
    assert hook.attach_type is not None
    # A new link silently takes the place of a program that was attached without one
    # (sock_map_link_create() of net/core/sock_map.c compares links only).
    _require_free(bpf_map, hook)
    try:
        return Link.create(program, bpf_map.fd, hook.attach_type)
    except HookBusyError as error:
        raise _busy(bpf_map, hook, error.message) from None
    except InvalidArgumentError:
        # Linux commit 699c23f02c65 ("bpf: Add bpf_link support for sk_msg and sk_skb progs")
        # (v6.10).
        if has_enumerator("bpf_link_type", "BPF_LINK_TYPE_SOCKMAP"):
            raise
        return None


def _attach_without_link(program: Program, bpf_map: BaseMap, hook: Hook) -> None:
    assert hook.attach_type is not None
    _require_free(bpf_map, hook)
    target = f"{hook.value} of map {bpf_map.name}"
    bpf.prog_attach(program.fd, bpf_map.fd, hook.attach_type, target=target)


def _require_free(bpf_map: BaseMap, hook: Hook) -> None:
    assert hook.attach_type is not None
    if sockmap_program(bpf_map.fd, hook.attach_type):
        raise _busy(bpf_map, hook)


def _busy(bpf_map: BaseMap, hook: Hook, words: str = "") -> HookBusyError:
    """Return the refusal; it names the program that the map has, or the kernel's *words*."""
    assert hook.attach_type is not None
    running = sockmap_program(bpf_map.fd, hook.attach_type)
    holder = f"program id {running}"
    link = next(
        (
            link.id
            for link in links()
            if link.type == LinkType.SOCKMAP
            and (link.map_id, link.attach_type) == (bpf_map.id, hook.attach_type)
        ),
        None,
    )
    if link is not None:
        holder += f", held by link id {link}"
    # Stream verdicts and verdicts exclude each other (sock_map_prog_link_lookup()).
    why = f": {holder}" if running else f" ({words})" if words else ""
    return HookBusyError(
        f"map {bpf_map.name} (id {bpf_map.id}) cannot take one more program at {hook.value}{why}",
        holder=holder if running else "",
    )


class SockmapCode(HookCode):
    """The code of the hooks of maps of sockets."""

    def map_of(self, target: str) -> str:
        """Return the map, which is the target."""
        return target

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link, or prepare it where the map is to hold the program."""
        with target.open_map() as bpf_map:
            _require_sockets(bpf_map)
            if link := _link(program, bpf_map, hook):
                return NewAttachment(hook, link)
            return NewAttachment(
                hook,
                held_by=HeldBy.MAP,
                handle=bpf_map.id,
                note=f"this kernel has no links for maps of sockets: at a reload the sockets that"
                f" are in {bpf_map.name} keep the program that they were added with",
            )

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Refuse a map that is none of sockets, or has a program there."""
        with target.open_map() as bpf_map:
            _require_sockets(bpf_map)
            _require_free(bpf_map, hook)
        return ""

    def complete(
        self, program: Program, hook: Hook, target: HookTarget, prepared: RememberedHook
    ) -> None:
        """Attach the program to the map."""
        with target.open_map() as bpf_map:
            _attach_without_link(program, bpf_map, hook)

    def reopen(self, hook: Hook, target: HookTarget, remembered: RememberedHook) -> SockmapProgram:
        """Return the attachment at the map, which is known by its id."""
        return SockmapProgram(remembered.handle, hook)

    def detach_line(self, hook: Hook, device: str, remembered: RememberedHook) -> str:
        """Return the line of bpftool that detaches the program that the map runs now."""
        running = SockmapProgram(remembered.handle, hook).program_id()
        word = hook.value.replace("-", "_")
        return f"bpftool prog detach id {running} {word} id {remembered.handle}"


CODE = SockmapCode()
