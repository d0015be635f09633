"""Identity providers: adapters of `ports.issuers.Issuer`."""
