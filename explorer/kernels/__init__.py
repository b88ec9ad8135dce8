"""One folder (or file) an operation: the slow obvious definition, and faster paths that report that they ran."""
