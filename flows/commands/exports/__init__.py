"""Commands that write a batch for tools of others."""
