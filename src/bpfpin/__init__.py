"""bpfpin: eBPF maps that outlive a program and are shared between programs."""
