"""The benchmarks behind the README's table: ``python -m benchmarks`` measures them."""
