"""BTF: the types of a BPF object or of the kernel; read, written, laid out, compared, printed."""
