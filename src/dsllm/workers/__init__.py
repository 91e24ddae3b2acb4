"""Who does the work: this process, a pool of processes, or a Ray cluster; the result is the same."""
