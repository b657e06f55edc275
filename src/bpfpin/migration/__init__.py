"""Migrating a map to a new layout without losing a count: the plan, and the programs that fold it.

Vocabulary: an entry has two *parts*, `key` and `value`; a part consists of *members*, the leaves of
its type (`src.port`); *old* and *new* are the two maps. A *rule* says how a member's old value and
the value that the new program has written meanwhile become one. A *fold* moves the entries.

The walk of a migration, with the files in the order in which they come into play:

1. `request`: what the user asks for, from the command line or as a `Migration`: rules by member,
   renamed and dropped members, first values, layouts of values without BTF.
2. `analysis.follow`: what the old and the new programs do to the map's values, from their
   instructions. The caller asks it, and gives the answer to `plan`.
3. `members`: both types taken apart into members. `match`: which old member becomes which new one,
   by name, by which rule (by default that of `exact`: `sum` for counters), and which checks every
   entry has to pass (a number must fit, a text must not be cut).
4. `entries`: the old map read: how many entries it has, and which of them fail a check. `exact`:
   from all of that, whether every count comes over.
5. `losses`: what the user knowingly gives up, and the conditions that hold until the switch.
   `refusal`: everything that stands against the migration, collected into one error with hints.
6. `first_values`: the values of new entries, and those written before programs see the map.
7. `plan`: takes steps 3 to 6 for one map (`plan_migration`) and keeps the result. Nothing has been
   changed up to here. `report`: the plan as plain data, for the caller of `deploy`.
8. `fold_program` and `fold_member`: the BPF programs of the fold, generated for the two maps.
   `fold`: they are loaded before the switch, so that whatever the verifier may refuse is refused
   early. `pins.folds` pins them, for crash recovery.
9. The hooks are switched (`pins.switch`). `fold.wait_for_programs` waits until no old program runs,
   and `fold.FoldPrograms` moves the entries, in the kernel.

Why no count is lost or counted twice is explained in `fold_program`.
"""
