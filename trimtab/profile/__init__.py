"""What a table looks like to a project that begins: the kind of each column, time and periods, the target, suspects.

Pure functions over a frame; `tasks.table_samples` reads the rows."""
