"""The table of causes: patterns of verifier messages of all kernels, and a hint for each.

The first matching row counts, so narrow patterns come before wide ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from bpfpin.records import dataclass
from bpfpin.uapi_helpers import FuncId

# The first helper of each release (include/uapi/linux/bpf.h at its tag). 211 is the last one: newer
# functions are kfuncs.
_FIRST_OF = (
    (210, "6.2"),
    (208, "6.1"),
    (204, "6.0"),
    (194, "5.19"),
    (186, "5.18"),
    (180, "5.17"),
    (176, "5.16"),
)
_KNOWN = frozenset(int(helper) for helper in FuncId)
Say = Callable[[re.Match[str]], str]


class Cause(StrEnum):
    """The cause of a refusal, by name; `UNKNOWN` is "": no row of the table matches."""

    UNKNOWN = ""
    NULL_CHECK = "null-check"
    PACKET_BOUNDS = "packet-bounds"
    VALUE_BOUNDS = "value-bounds"
    STACK_SIZE = "stack-size"
    STACK_BOUNDS = "stack-bounds"
    UNINITIALISED_STACK = "uninitialised-stack"
    UNINITIALISED_REGISTER = "uninitialised-register"
    RETURN_VALUE = "return-value"
    LOOP = "loop"
    COMPLEXITY = "complexity"
    ALIGNMENT = "alignment"
    HELPER_NOT_ALLOWED = "helper-not-allowed"
    HELPER_MISSING = "helper-missing"
    CORE_RELOCATION = "core-relocation"
    WEAK_SYMBOL = "weak-symbol"
    LICENSE = "license"
    LEAKED_REFERENCE = "leaked-reference"
    MISSING_BTF = "missing-btf"
    UNREACHABLE = "unreachable"
    NO_EXIT = "no-exit"
    SCALAR_POINTER = "scalar-pointer"
    POINTER_ARITHMETIC = "pointer-arithmetic"
    MODIFIED_POINTER = "modified-pointer"
    READ_ONLY = "read-only"
    UNBOUNDED_OFFSET = "unbounded-offset"
    NOT_CONSTANT = "not-constant"
    CONTEXT_FIELD = "context-field"
    ARGUMENT_TYPE = "argument-type"
    MAP_KIND = "map-kind"
    CALL_DEPTH = "call-depth"
    SLEEPABLE = "sleepable"
    SPIN_LOCK = "spin-lock"
    TRUSTED_POINTER = "trusted-pointer"
    ATTACH_TARGET = "attach-target"
    NOT_OPTIMIZED = "not-optimized"


def name_of_helper(number: int) -> str:
    """Return the helper's name in C, such as `bpf_loop`; `unknown` if this version lacks it too."""
    return f"bpf_{FuncId(number).name}" if number in _KNOWN else "unknown"


def release_of_helper(number: int) -> str:
    """Return the first Linux release with the helper; "" before 5.16 and for unknown helpers."""
    if number not in _KNOWN:
        return ""
    return next((release for first, release in _FIRST_OF if number >= first), "")


def _missing_helper(match: re.Match[str]) -> str:
    number = int(match["number"])
    name, release = name_of_helper(number), release_of_helper(number)
    since = f", which came with Linux {release}" if release else ""
    return f"this kernel has no helper {number} ({name}{since}): use another, or a newer kernel"


_LOOP_HINT = (
    "let it end after a number of rounds that the verifier can see: a constant bound, bpf_loop() or"
    " bpf_for()"
)

_COMPLEXITY_HINT = (
    "split it: functions that are not inlined (static __noinline, or global ones, which are"
    " verified once), bpf_loop(), tail calls; fewer branches inside of loops"
)

_BOUND_HINT = (
    "bound it right before it is used, from both ends: an unsigned type, if (n > MAX) return …, or"
    " n &= MAX - 1 with a power of two"
)

_STACK_HINT = "a program and what it calls have 512 bytes of stack: put large data into a map"

_LOCK_HINT = (
    "between bpf_spin_lock and bpf_spin_unlock there are no calls, and every way out unlocks;"
    " the lock lies in a map value, in a member that BTF describes"
)

_ROWS: tuple[tuple[Cause, str, str | Say], ...] = (
    (
        Cause.NOT_OPTIMIZED,
        r"unknown opcode 8d\b",
        "it calls a function by a pointer, as compilers do without optimization: compile with -O2",
    ),
    (
        Cause.CORE_RELOCATION,
        # The number of `fixup.core_patch.POISON` and above: an instruction whose relocation has no
        # target in this kernel is replaced by a call of a helper that no kernel has.
        r"invalid func unknown#(?:195[89]\d{5}|19[6-9]\d{6})\b",
        "guard it in C: if (bpf_core_field_exists(…)), or bpf_core_type_exists, …",
    ),
    (
        Cause.WEAK_SYMBOL,
        # `fixup.externs.POISON` and above, in the same way for weak externs.
        r"invalid func unknown#20\d{8}\b|pseudo btf_id \d+"
        r"|calls? (?:to )?(?:an )?(?:invalid|unresolved) kfunc"
        r"|failed to find (?:kernel )?BTF.* kfunc|invalid kernel function call",
        "a weak symbol or kfunc that this kernel lacks was reached: guard it with"
        " if (bpf_ksym_exists(NAME))",
    ),
    # After the two above: any other number is that of a real helper.
    (Cause.HELPER_MISSING, r"invalid func \w+#(?P<number>\d{1,10})", _missing_helper),
    (
        Cause.LICENSE,
        r"(?:GPL.(?:restricted|only)|kernel) function from (?:non-GPL|proprietary)"
        r"|restricted to GPL-compatible",
        'the license decides: char _license[] SEC("license") = "GPL"; if that is its license',
    ),
    (
        Cause.SLEEPABLE,
        r"might sleep|may sleep|is sleepable within|must be sleepable|sleepable kfunc"
        r"|not sleepable|cannot be sleepable|programs can only be sleepable|non-sleepable"
        r"|in sleepable prog",
        "what sleeps is for sleepable programs only (section names with .s, as lsm.s/NAME,"
        " fentry.s/NAME, iter.s/NAME), outside of locks and RCU",
    ),
    (
        Cause.SPIN_LOCK,
        r"while holding a lock|bpf_spin_(?:un)?lock|spin_lock-ed region|res_spin_lock"
        r"|inside an active lock region",
        _LOCK_HINT,
    ),
    (
        Cause.HELPER_NOT_ALLOWED,
        # The first words are of newer kernels, `unknown func` of older ones.
        r"program of this type cannot use helper (?P<helper>\w+)|unknown func (?P<old>\w+)#"
        r"|(?:kernel|helper) (?:function|call) .*not allowed"
        r"|helper (?P<new>\w+)#\d+ is not allowed",
        "programs of this type may not call {helper}{old}{new}: do it in a program of another type,"
        " or use another helper (bpftool feature probe lists them by type)",
    ),
    (
        Cause.LEAKED_REFERENCE,
        r"Unreleased reference id=\d+ alloc_insn=(?P<insn>\d{1,10})",
        "what {place} took is to be given back on every way to the end: bpf_ringbuf_submit or"
        " _discard, bpf_sk_release, bpf_task_release, bpf_obj_drop …",
    ),
    (
        Cause.LEAKED_REFERENCE,
        r"reference leak|[Uu]nreleased|still needs to be released",
        "release the reference on every path to the end: bpf_ringbuf_submit or _discard,"
        " bpf_sk_release, bpf_task_release, bpf_obj_drop …",
    ),
    (
        Cause.MISSING_BTF,
        r"missing btf func_info|func_info|has no BTF|no BTF found|without BTF|Invalid BTF"
        r"|lacks? BTF|(?:missing|need|requires?) (?:kernel )?(?:btf|BTF)\b|must have BTF",
        "compile it with -g (and link with bpftool gen object, which keeps BTF), so that the object"
        " carries its types",
    ),
    (
        Cause.COMPLEXITY,
        r"program is too (?:large|complex)|sequence of \d+ jumps is too complex"
        r"|loop is too complex|too many (?:insns|states|jumps)",
        _COMPLEXITY_HINT,
    ),
    (Cause.LOOP, r"infinite loop detected|back-edge from insn|loop detected", _LOOP_HINT),
    (
        Cause.MAP_KIND,
        r"cannot pass map_type \d+ into func (?P<helper>\w+)|invalid map_type|map_type \d+",
        "{helper} takes maps of another type: see the type that the object defines the map with",
    ),
    (
        Cause.MAP_KIND,
        r"tracing progs cannot use resizable hash maps",
        "programs of tracing may not use an rhash: define the map as BPF_MAP_TYPE_HASH",
    ),
    (
        Cause.CALL_DEPTH,
        r"too many subprograms|call stack of \d+ frames|recursi(?:ve|on)|call depth|call chain",
        "eight calls deep at most (on newer kernels 16), no recursion, 256 functions: use a loop or"
        " a tail call",
    ),
    (
        Cause.UNREACHABLE,
        r"unreachable insn|is not reachable from the program entry",
        "code that nothing jumps to is refused: remove it",
    ),
    (
        Cause.NO_EXIT,
        r"last insn is not an exit|jump out of range|jump to reserved|fall-through|fell through"
        r"|can fall through|only contains instructions",
        "every way ends in `exit` within its own function: return a value at the end; a call of a"
        " function that never returns leaves none",
    ),
    (
        Cause.STACK_SIZE,
        # Offsets below -512, the size of a stack (MAX_BPF_STACK).
        r"combined stack size|stack.* off=-(?:51[3-9]|5[2-9]\d|[6-9]\d\d|\d{4,})\b"
        r"|stack .*too large|Too large",
        _STACK_HINT,
    ),
    (
        Cause.NULL_CHECK,
        r"(?P<register>R\d) invalid mem access '\w*_or_null|(?P<argument>R\d) type=\w*_or_null"
        r"|\((?P<handed>R\d)\) to .* has type \w*_or_null|(?P<read>R\d) may be NULL here"
        r"|[Pp]ossibly NULL|may be NULL",
        "{register}{argument}{handed}{read} may be NULL: compare it with NULL first, and use it"
        " only where it is not",
    ),
    (
        Cause.SCALAR_POINTER,
        # `inv` is the word of older kernels for what newer ones call `scalar`.
        r"R\d invalid mem access '(?:scalar|inv)'|is an integer scalar here, not a pointer",
        "it is a number to the verifier, no pointer: memory of the kernel or of a process is read"
        " with bpf_probe_read_kernel or _user, BPF_CORE_READ; a pointer kept in a map is one no"
        " more",
    ),
    (
        Cause.MODIFIED_POINTER,
        r"dereference of modified|variable \w+ access var_off|negative offset \w+ ptr",
        "the compiler added to the pointer before it was used: read the member of the untouched"
        " pointer with a constant offset (volatile, or barrier_var() between, keeps it)",
    ),
    (
        Cause.PACKET_BOUNDS,
        r"invalid access to packet|outside of the packet|cannot prove offset .* R\d is pkt",
        "compare with data_end before reading: if (data + SIZE > data_end) return …, of the same"
        " pointer that is read, after each change of the packet anew",
    ),
    (
        Cause.ALIGNMENT,
        r"misaligned \w+ access",
        "read it at a multiple of its size, or byte by byte (__builtin_memcpy into a variable)",
    ),
    (
        Cause.UNBOUNDED_OFFSET,
        r"min value is negative|unbounded memory access|unbounded min value|unbounded .*offset"
        r"|unbounded variable-offset|invalid zero-sized|scalar offset used with R\d is unbounded",
        _BOUND_HINT,
    ),
    (
        Cause.READ_ONLY,
        r"write into map forbidden|cannot write into|read-only|rdonly|write to change key",
        "constant memory (.rodata, a map with BPF_F_RDONLY_PROG, kernel memory) is read-only:"
        " write to a copy",
    ),
    (
        Cause.UNINITIALISED_STACK,
        # Before STACK_BOUNDS, whose patterns match these messages, too.
        r"invalid (?:indirect )?(?:variable-offset |unbounded )?(?:indirect )?read from stack",
        "give all bytes of it a value first, padding too: struct … x = {{}}; or __builtin_memset",
    ),
    (
        Cause.STACK_BOUNDS,
        r"invalid .*(?:stack|frame)|stack pointer|access beyond .*stack|spill",
        "it goes past the variable on the stack: check index and size; the stack is 512 bytes",
    ),
    (
        Cause.VALUE_BOUNDS,
        r"invalid access to (?:map|memory|key)|outside of the allowed memory range"
        r"|cannot prove offset .* R\d is (?:map_value|map_key|mem)",
        "it goes past the end of the value: compare index plus size with that of the value first",
    ),
    (
        Cause.NOT_CONSTANT,
        r"(?:not|be) a (?:known )?const(?:ant)?|must be a known constant|not a compile-time const",
        "it has to be a number the compiler knows (of bpf_ringbuf_reserve the size): reserve the"
        " largest, or copy with bpf_ringbuf_output",
    ),
    (
        Cause.CONTEXT_FIELD,
        r"invalid bpf_context access",
        "programs of this type may not use that field of the context in this way, by offset, size,"
        " or for writing; some fields depend on the attach type, so check the section's name",
    ),
    (
        Cause.POINTER_ARITHMETIC,
        r"pointer (?:arithmetic|operation|comparison|subtraction|addition).*(?:prohibited|not)"
        r"|pointer.* prohibited|math between \w+ pointer|pointer be out of bounds"
        r"|tried to (?:add|subtract)|bitwise operator|limited pointer arithmetic operations",
        "a pointer takes only additions of bounded numbers, and only after its NULL check: compute"
        " the offset first, as a number",
    ),
    (
        Cause.RETURN_VALUE,
        r"At program exit the register R0|At \w+ exit|register R0 has",
        "return one of the values that programs of this type may, on every way",
    ),
    (
        Cause.UNINITIALISED_REGISTER,
        # R0 is the return value: before the general row, for the remedy is another one.
        r"R0 !read_ok|R0 has never been initialized",
        "a way to the end leaves without a return value: return one on each",
    ),
    (
        Cause.UNINITIALISED_REGISTER,
        r"(?P<register>R\d+) !read_ok"
        r"|(?P<unset>R\d+) (?:has never been initialized|is not readable)",
        "{register}{unset} has no value there: after a call R1 to R5 are gone; give the variable a"
        " value on each way",
    ),
    (
        Cause.TRUSTED_POINTER,
        r"must be (?:referenced|rcu|trusted)|untrusted|trusted args|rcu pointer|arg#\d+ ",
        "take a reference or stay under bpf_rcu_read_lock(): only pointers that surely live may be"
        " handed on",
    ),
    (
        Cause.ARGUMENT_TYPE,
        r"R(?P<number>\d) type=(?P<there>\w+) expected=(?P<wanted>\w+)",
        "argument {number} is to be {wanted} and is {there}: hand on the pointer of that kind",
    ),
    (
        Cause.ARGUMENT_TYPE,
        r"does not satisfy the verifier contract",
        "hand on a value of a type that the call accepts",
    ),
    (
        Cause.ATTACH_TARGET,
        r"attach_btf_id|expected_attach_type|attach to (?:unsupported|invalid)"
        r"|is not (?:a )?traceable|FENTRY/FEXIT program|not modifiable",
        "the section's name says what it attaches to: check the kind and that this kernel has the"
        " target",
    ),
)  # fmt: skip

TABLE = tuple((cause, re.compile(pattern), hint) for cause, pattern, hint in _ROWS)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause, and a hint what to do; "" if there is none."""

    cause: Cause = Cause.UNKNOWN
    hint: str = ""


def diagnose(words: str, name_place: Callable[[int], str]) -> Diagnosis:
    """Return the cause and hint of the first row that matches *words*, the verifier's message.

    *name_place* returns the name of an instruction (`line 12`), for hints that point at one.
    """
    for cause, pattern, hint in TABLE:
        match = pattern.search(words)
        if match:
            groups = {name: text or "" for name, text in match.groupdict().items()}
            if groups.get("insn"):
                groups["place"] = name_place(int(groups["insn"]))
            return Diagnosis(cause, hint(match) if callable(hint) else hint.format(**groups))
    return Diagnosis()
