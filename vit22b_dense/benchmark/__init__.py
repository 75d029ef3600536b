"""Speed and memory of what is here, side by side with what others use; see tools/benchmark.py."""
