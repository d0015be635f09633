"""The Python API: register agents, make an app, or put Innkeeper into one."""
