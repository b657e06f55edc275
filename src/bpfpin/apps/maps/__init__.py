"""Any map of the host, named by path, `id:N` or `name:NAME`."""
