"""Where tokens are kept: adapters of `ports.tokens.TokenVault`."""
