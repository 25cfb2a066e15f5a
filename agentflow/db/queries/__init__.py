"""Every SQL statement, by what it is for. Lock order everywhere: workflow, runs by id, node runs by key (ENGINE 3)."""
