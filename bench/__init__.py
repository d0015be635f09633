"""The benchmarks: Innkeeper against a bare Starlette app that sends the same bytes. `scripts/bench` runs them."""
