"""A run's memory on disk: found by scan, judged by inspect, sorted into runs by lineage, chosen by choose, made by commit."""
