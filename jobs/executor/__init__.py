"""Where work is computed: in this process, on Ray workers, on a gang of them. It does not know what the work means."""
