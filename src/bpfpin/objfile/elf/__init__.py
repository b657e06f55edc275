"""The ELF file: header, sections, symbols and relocations, whatever they mean to BPF."""
