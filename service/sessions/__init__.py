"""What clients do with sessions, on values that know no protocol."""
