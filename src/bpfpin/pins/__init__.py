"""Names in bpffs: pin sets, their manifests and the transactions that change them."""
