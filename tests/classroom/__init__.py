"""Programs that try a server for a class and print a table: `python -m tests.classroom NAME [options]`."""
