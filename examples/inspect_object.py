"""What is in an object file; needs no privilege and no kernel."""

import bpfpin

spec = bpfpin.read_object("builtin:xdp_stats")

for name, program in spec.programs.items():
    print(f"program {name}: {program.type.name}, section {program.section}")
for name, wanted in spec.maps.items():
    print(f"map {name}: {wanted.type.name}, {wanted.max_entries} entries")
