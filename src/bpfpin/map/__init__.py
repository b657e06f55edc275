"""Layer 7, the verbs on one map: find by name, dump, query, change, watch, follow, snapshots.

The folder is not called `maps`, since `bpfpin.maps()` is a public function.
"""
