"""What stands against a migration, collected, and what to type against that."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.of_btf import codec
from bpfpin.errors import Difference, IncompatibleMapError
from bpfpin.pins.migration.contents import Contents, Misfit, shown
from bpfpin.pins.migration.exact import Exactness
from bpfpin.pins.migration.layout import PartMoves
from bpfpin.pins.migration.leaves import is_lock, owned
from bpfpin.pins.migration.moves import Shape
from bpfpin.pins.migration.paths import bare
from bpfpin.pins.migration.rules import Rule, Wishes
from bpfpin.pins.migration.wishes import KEY


class Refusals:
    """All that stands against migrating the map *name*; `error` tells it at once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: dict[Difference, None] = {}
        self._hints: dict[str, None] = {}

    def error(self) -> IncompatibleMapError:
        """Return the error that tells everything."""
        return IncompatibleMapError(
            f"cannot be migrated as things are: {self._name}",
            differences=tuple(self._found),
            hint="; ".join(self._hints),
        )

    def stop_if_any(self) -> None:
        """Raise the error if anything was told."""
        if self._found:
            raise self.error()

    def tell(self, differences: Iterable[Difference]) -> None:
        """Add differences that no word helps against but to start empty."""
        for one in differences:
            self._add(one.field, one.old, one.new, f"--fresh {self._name} starts it empty")

    def owned(self, types: Iterable[TypeRef | None]) -> None:
        """Refuse values with things of the kernel's in them; a lock is left out, and stays new."""
        for one in (one for type_ in types for one in owned(type_) if not is_lock(one)):
            what = "the kernel's own, it cannot be moved"
            self.tell([Difference(self._name, f"value {one.path}", one.type, what)])

    def parts(self, side: str, moves: PartMoves | None) -> None:
        """Refuse what has no place in the new key or value, or no rule."""
        prefix = f"{KEY}." if side == KEY else ""
        for one in moves.unfit if moves else ():
            hint = one.hint
            for option in ("--drop ", "--rename ", "--rule "):
                hint = hint.replace(option, f"{option}{prefix}")
            self._add(f"{side} {bare(one.path)}".rstrip(), one.old, one.new, hint)

    def words(
        self,
        keys: PartMoves | None,
        values: PartMoves,
        both: tuple[Shape, Shape],
        functions: Collection[str],
    ) -> None:
        """Refuse rules and functions that make no sense for these maps."""
        old, new = both
        if old.is_per_cpu and not new.is_per_cpu:
            for move in values.moves:
                if move.rule is Rule.KEEP_OLD:
                    self._add(
                        f"value {move.path}".rstrip(),
                        "a value of each CPU",
                        "one value, and keep-old says not which",
                        f"--rule {bare(move.path) or 'value'}=sum|max|min|keep-new",
                    )
        if functions and (keys is not None or old.is_per_cpu != new.is_per_cpu):
            self._add("functions", "keys and CPUs as they are", "keys or CPUs that change", "")

    def contents(
        self,
        found: Contents,
        types: tuple[TypeRef | None, TypeRef | None],
        both: tuple[Shape, Shape],
    ) -> None:
        """Refuse a map too small for the entries, and entries that do not fit."""
        old, new = both
        if not new.is_array and found.entries > new.max_entries:
            self._add(
                "max_entries",
                f"{found.entries} entries are there",
                str(new.max_entries),
                f"make {self._name} larger (max_entries)",
            )
        for misfit in found.misfits:
            self._misfit(misfit, types, old)

    def inexact(self, exactness: Exactness, wishes: Wishes) -> None:
        """Refuse what is not exact, unless the user said that this will do."""
        if wishes.best_effort:
            return
        for reason in exactness.reasons:
            self._add("exactness", "every count comes over", reason, "--best-effort")

    def _misfit(
        self, misfit: Misfit, types: tuple[TypeRef | None, TypeRef | None], shape: Shape
    ) -> None:
        key = shown(codec(types[0], shape.key_size, is_key=True), misfit.key)
        value = shown(codec(types[1], shape.value_size), misfit.value)
        path = f" {misfit.path}" if misfit.path else ""
        drop = f"--drop {bare(misfit.path)}" if misfit.path else ""
        hint = "--clamp, or " if "room" in misfit.what else ""
        self._add(
            f"{misfit.part}{path}",
            f"{misfit.number} at key {key}, in {value}",
            misfit.what,
            f"{hint}{drop}" if drop else "",
        )

    def _add(self, field: str, old: str, new: str, hint: str) -> None:
        self._found[Difference(self._name, field, old, new)] = None
        if hint:
            self._hints[hint] = None
