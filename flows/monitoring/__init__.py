"""Report to people and other systems how a batch goes."""
