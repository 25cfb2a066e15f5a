"""Who a request is from: passwords, tokens, cookies, keys and links (docs/accounts.md)."""
