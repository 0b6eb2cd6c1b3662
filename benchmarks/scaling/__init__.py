"""The parts of bench_scaling."""
