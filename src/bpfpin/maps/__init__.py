"""Layer 7, the verbs on one map: find by name, dump, query, change, watch, follow, snapshots."""
