"""One self-contained HTML page out of any folders that the suite wrote."""
