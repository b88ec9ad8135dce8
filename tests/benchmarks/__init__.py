"""Speed and memory, as ratios against peers: `python -m tests.benchmarks [--only NAME] [--quick]`."""
