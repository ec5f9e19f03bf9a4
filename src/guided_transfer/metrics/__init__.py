"""Is it good? Pure functions, tensors in, numbers out; `suite` puts them together for an episode."""
