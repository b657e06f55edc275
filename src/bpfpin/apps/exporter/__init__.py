"""The Prometheus exporter of the whole host: a privileged helper and a process that is scraped."""
