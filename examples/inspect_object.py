"""List the programs and maps of an object file, without privileges and without the kernel."""

import bpfpin

spec = bpfpin.read_object("builtin:xdp_stats")

for name, program in spec.programs.items():
    print(f"program {name}: {program.type.name}, section {program.section}")
for name, bpf_map in spec.maps.items():
    print(f"map {name}: {bpf_map.type.name}, {bpf_map.max_entries} entries")
