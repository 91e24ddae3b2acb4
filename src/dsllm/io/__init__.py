"""Files, folders, pipes and URLs: what the stages read and write."""
